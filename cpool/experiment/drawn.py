"""The trials of a row that draws its settings: which of search.json are its own, and the next."""

from typing import Any

from cpool.errors import CpoolError
from cpool.experiment.config import Candidate, MethodEntry
from cpool.experiment.sampler import draw
from cpool.experiment.trial_log import TrialLog, identity, jsonable

__all__ = ["candidate_of", "drawn_identity", "drawn_trials", "next_point"]

Drawn = tuple[Candidate | None, dict[str, Any]]


def candidate_of(entry: MethodEntry, point: dict[str, Any]) -> tuple[Candidate | None, str | None]:
    """Return the candidate of a drawn point, or why the method refuses it."""
    assert entry.space is not None
    try:
        return entry.space.make(point), None
    except CpoolError as error:  # such as more slots picked than there are
        return None, str(error)


def drawn_identity(entry: MethodEntry, candidate: Candidate | None, number: int) -> dict[str, Any]:
    """Return what makes a trial the row's own trial of that number.

    Args:
        entry: the row.
        candidate: None where the method refuses what was drawn.
        number: from 1.
    """
    known = (
        {"label": entry.label, "method": entry.method.name, "hyper_parameters": None, "train": None}
        if candidate is None
        else identity(entry, candidate)
    )
    space = {k: v if isinstance(v, tuple) else v.table() for k, v in entry.grid.items()}
    return {**known, "number": number, "space": jsonable(space)}


def drawn_trials(entry: MethodEntry, log: TrialLog) -> list[Drawn]:
    """Return the trials that are done, from the first on: candidate and entry in search.json.

    One that was drawn from other ranges, or beside other settings of the row, is not the row's.
    """
    own = {t.get("number"): t for t in log.trials if t["label"] == entry.label}
    found: list[Drawn] = []
    while (trial := own.get(len(found) + 1)) is not None:
        if set(trial["settings"]) != set(entry.grid):
            break
        candidate, _ = candidate_of(entry, trial["settings"])
        wanted = drawn_identity(entry, candidate, len(found) + 1)
        if {key: trial.get(key) for key in wanted} != wanted:
            break
        found.append((candidate, trial))
    return found


def next_point(entry: MethodEntry, done: list[Drawn], seed: int) -> dict[str, Any]:
    """Draw the point of the next trial from those that are done."""
    assert entry.space is not None
    scores = [(trial["settings"], trial["accuracy"]) for _, trial in done]
    return draw(entry.grid, scores, entry.space.trials, seed, entry.label)
