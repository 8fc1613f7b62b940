"""Experiments: one TOML file in, one folder of results out; what `cpool run` does.

`reading` reads and checks the file, `runner` runs every method with every seed, `folder` keeps the
files, and `inspect` looks into a checkpoint without the backbone.
"""

__all__: list[str] = []
