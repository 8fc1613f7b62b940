"""The console of tables: as wide as the terminal, or 100 columns where there is none."""

import sys
from typing import Any

from rich.console import Console

__all__ = ["WIDTH", "print_table"]

# The width that `cpool.report` lays tables out for when it finds no terminal.
WIDTH = 100


def print_table(table: Any, width: int = WIDTH) -> None:
    """Print a rich table on stdout.

    Args:
        table: anything that rich can print.
        width: columns where stdout is no terminal.
    """
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=width)
    console.print(table)
