"""How much effort a row of a table had: epochs a task, and trials of the search."""

from collections.abc import Mapping, Sequence
from typing import Any

from cpool.errors import CpoolError
from cpool.methods import METHODS, Method, method_from
from cpool.report.results import Row

__all__ = ["epochs", "few_epochs", "fewer_than_own", "trials"]


def _method(run: Mapping[str, Any]) -> Method | None:
    """Return the method of a run as it was, or at its defaults where it has other fields now."""
    name, options = run["method"], run.get("hyper_parameters") or {}
    if name not in METHODS:
        return None
    try:
        return method_from(name, options)
    except CpoolError:
        return METHODS[name]()


def _epochs(row: Row) -> tuple[int, int | None] | None:
    """Return epochs a task and those of the method's own settings; None where nothing trains."""
    run = row.runs[0]
    given, method = (run.get("train") or {}).get("epochs"), _method(run)
    if given is None or (method is not None and not method.trains):
        return None
    return given, None if method is None else method.settings.epochs


def fewer_than_own(row: Row) -> bool:
    """Tell whether a row was trained for fewer epochs than the method's own settings have."""
    found = _epochs(row)
    return found is not None and found[1] is not None and found[0] < found[1]


def epochs(row: Row) -> str | None:
    """Write the epochs a task, "3 of 20" where the method's own settings have more."""
    found = _epochs(row)
    if found is None:
        return None
    return f"{found[0]} of {found[1]}" if fewer_than_own(row) else str(found[0])


def trials(row: Row) -> str | None:
    """Write how many settings were tried for a row; None where there was no search for it."""
    found = (row.runs[0].get("search") or {}).get("trials")
    return None if found is None else str(found)


def few_epochs(rows: Sequence[Row]) -> str | None:
    """Say how many of the rows that train had fewer epochs than their own settings, if any."""
    training = [row for row in rows if _epochs(row) is not None]
    fewer = sum(map(fewer_than_own, training))
    if not fewer:
        return None
    return (
        f"{fewer} of {len(training)} rows that train had fewer epochs than the settings of their "
        "papers, which are the methods' defaults: *k of n* in their column."
    )
