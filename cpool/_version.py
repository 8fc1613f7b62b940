"""The version, in one place: the build, `cpool.__version__` and the changelog agree on it."""

__version__ = "0.2.0"
