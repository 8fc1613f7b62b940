"""cpool: continual learning with a growing pool of soft prompts on a frozen model."""

from cpool._version import __version__

__all__ = ["__version__"]
