"""A dry run: an experiment made small, so that it shows in a minute whether it starts."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cpool.experiment.checking import named
from cpool.experiment.checks import check_row
from cpool.experiment.config import Candidate, Experiment, MethodEntry
from cpool.experiment.parts import open_stream
from cpool.experiment.runner import Runner
from cpool.learner import Learner
from cpool.methods import Method
from cpool.seeding import seeded
from cpool.settings import TrainSettings

__all__ = ["check_candidates", "rehearsed"]

# What makes a method costly and does not decide whether it fits: most of each in a dry run.
_MOST = {
    "edge": 4,
    "neighbours": 4,
    "per_class": 4,
    "projection": 64,
    "replays": 2,
    "rows": 4,
    "samples": 4,
    "tries": 8,
}


def rehearsed(experiment: Experiment, folder: Path) -> Experiment:
    """Return the experiment as a dry run does it.

    It has random small weights and made-up data (`cpool.experiment.stand_ins`), the first seed,
    and two batches of one epoch a task; what else is only costly in a method is small. Of a grid
    the first candidate is tried; `check_candidates` builds the others.

    Args:
        experiment: as read from its file.
        folder: an empty one for the made-up data, there as long as the experiment is used.

    Raises:
        CpoolError: the stream does not build.
    """
    dry = replace(experiment, seeds=experiment.seeds[:1], stand_ins=folder)
    with named(experiment.source, "the stream"):
        stream = open_stream(dry, dry.seeds[0])
    sizes = [len(task.train) for task in stream]
    return replace(dry, methods=tuple(_entry(e, max(sizes), sum(sizes)) for e in dry.methods))


def check_candidates(runner: Runner, experiment: Experiment) -> None:
    """Build every candidate of every grid on the stand-ins.

    Args:
        runner: of the dry run.
        experiment: as read from its file.

    Raises:
        CpoolError: one that does not fit; the message names it.
    """
    for entry in experiment.methods:
        for candidate in entry.samples:
            with named(experiment.source, f"the method {entry.label!r}, {candidate.settings}"):
                with seeded(0, "build"):
                    model = _method(candidate.method).build(runner.backbone)
                learner = Learner(model, candidate.train, quiet=True)
                check_row(candidate.method, learner, runner.stream)


def _entry(entry: MethodEntry, most: int, total: int) -> MethodEntry:
    rows = total if entry.method.joint else most
    candidates = tuple(_candidate(candidate, rows) for candidate in entry.candidates[:1])
    final = entry.final
    return MethodEntry(
        entry.label,
        _method(final.method),
        _train(final.train, rows),
        {k: v[:1] if isinstance(v, tuple) else v for k, v in entry.grid.items()},
        candidates,
        None if entry.chosen is None else _candidate(entry.chosen, rows),
    )


def _candidate(candidate: Candidate, rows: int) -> Candidate:
    method, train = _method(candidate.method), _train(candidate.train, rows)
    return Candidate(candidate.settings, method, train)


def _train(train: TrainSettings, rows: int) -> TrainSettings:
    return train.but(epochs=1, batch_size=max(1, -(-rows // 2)))


def _method(method: Method) -> Method:
    return replace(method, **_small({f.name: getattr(method, f.name) for f in fields(method)}))


def _small(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those values that become smaller; the options of a joint method as well."""
    small: dict[str, Any] = {}
    for key, value in values.items():
        most = 1 if key.endswith("epochs") else _MOST.get(key)
        if isinstance(value, Mapping):
            small[key] = {**value, **_small(value)}
        elif most is not None and isinstance(value, int) and not isinstance(value, bool):
            small[key] = min(value, most)
    return small
