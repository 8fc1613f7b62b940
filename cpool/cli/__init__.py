"""The command line: `cpool run | compare | report | inspect | list`.

Only names and options live here; what the commands do is imported when one is called, so that
`--help` answers at once.
"""

from cpool.cli.app import app, main

__all__ = ["app", "main"]
