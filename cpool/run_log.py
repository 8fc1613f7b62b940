"""What a learner tells its trackers: pure functions from what was measured to named numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cpool.errors import MetricError
from cpool.metrics import AccuracyMatrix
from cpool.metrics.functional import average_accuracy, forgetting
from cpool.output import Output

__all__ = ["MOST_SLOTS", "TermMeans", "row_values", "usage_values"]

MOST_SLOTS = 64


class TermMeans:
    """The means of a loss and of its terms over the steps of an epoch.

    A term that a step does not have counts as 0 there, so that the terms add up to the loss.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, output: Output) -> None:
        """Take in what a model answered for a batch with labels."""
        assert output.loss is not None
        self._count += 1
        for name, value in {"loss": output.loss, **_terms(output)}.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())

    def means(self) -> dict[str, float]:
        """Return "loss", and "loss/TERM" for each term."""
        return {name: total / self._count for name, total in self._sums.items()}


def _terms(output: Output) -> dict[str, Any]:
    return {f"loss/{name}": value for name, value in output.losses.items()}


def row_values(matrix: AccuracyMatrix, trained: int) -> dict[str, float | None]:
    """Return the accuracy on each task after one, their average over the tasks seen, forgetting.

    Args:
        matrix: filled up to the row of `trained`.
        trained: the task just learned, from 0.

    >>> matrix = AccuracyMatrix(2)
    >>> matrix.update(0, 0, 0.75, 10)
    >>> row_values(matrix, 0)
    {'accuracy/task_0': 0.75, 'average_accuracy': 0.75, 'forgetting': None}
    """
    seen = matrix.values[: trained + 1, : trained + 1]
    row = matrix.values[trained]
    values: dict[str, float | None] = {
        f"accuracy/task_{task}": float(row[task]) for task in np.flatnonzero(~np.isnan(row))
    }
    for name, metric in (("average_accuracy", average_accuracy), ("forgetting", forgetting)):
        try:
            values[name] = metric(seen)
        except MetricError:  # forgetting after the first task; all but the last row of "joint"
            values[name] = None
    return values


def usage_values(usage: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, float]:
    """Return how the slots of each branch were used over all test samples of the tasks.

    Args:
        usage: branch → for each task how often each slot was picked.

    Returns:
        For each branch "BRANCH/size", "BRANCH/used" (picked at least once), "BRANCH/effective"
        (exp of the entropy of the picks: how many slots, picked evenly, would be as diverse), and
        the share of each slot, "BRANCH/share/SLOT", in pools of up to `MOST_SLOTS` slots.

    >>> usage_values({"prompt": [[2, 0], [2]]})
    {'prompt/size': 2.0, 'prompt/used': 1.0, 'prompt/effective': 1.0,
     'prompt/share/0': 1.0, 'prompt/share/1': 0.0}
    """
    values: dict[str, float] = {}
    for branch, tasks in usage.items():
        counts = np.zeros(max(map(len, tasks)))
        for row in tasks:
            counts[: len(row)] += row
        share = counts / max(counts.sum(), 1.0)
        picked = share[share > 0]
        entropy = -float((picked * np.log(picked)).sum())
        values[f"{branch}/size"] = float(len(counts))
        values[f"{branch}/used"] = float(len(picked))
        values[f"{branch}/effective"] = float(np.exp(entropy)) if len(picked) else 0.0
        if len(counts) <= MOST_SLOTS:
            values |= {f"{branch}/share/{slot}": float(part) for slot, part in enumerate(share)}
    return values
