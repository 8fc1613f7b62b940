"""What every metric asks of its matrix, in one place: the formulas elsewhere only compute."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from cpool.errors import MetricError

__all__ = ["Numbers", "as_matrix", "as_row", "as_sizes", "lower", "need", "two_tasks", "upto"]

Numbers: TypeAlias = np.ndarray | Sequence[Any] | int | float
"""What a metric takes: an array, nested lists (None = not measured), or one number for all."""


def as_matrix(matrix: Numbers) -> Float[np.ndarray, "tasks tasks"]:
    """Return `matrix` as float64 after the checks of shape and range; NaN means not measured.

    Raises:
        MetricError: not square, empty, not numbers, infinite, or a value outside [0, 1].

    >>> as_matrix([[0.5, None], [0.25, 1]])
    array([[0.5 ,  nan],
           [0.25, 1.  ]])
    """
    values = _floats(matrix, "an accuracy matrix of numbers, [tasks, tasks]")
    if values.ndim != 2 or values.shape[0] != values.shape[1] or values.size == 0:
        raise MetricError(
            expected="a square accuracy matrix, one row after each task and one column a test task",
            got=f"shape {values.shape}",
            remedy="Give R[t, i] = accuracy on task i after training task t; NaN if not measured.",
        )
    wrong = np.argwhere(~(np.isnan(values) | ((values >= 0) & (values <= 1))))
    if len(wrong):
        t, i = (int(k) for k in wrong[0])
        raise MetricError(
            expected="accuracies as fractions in [0, 1]",
            got=f"R[{t}, {i}] = {values[t, i]:g}",
            remedy="Divide percentages by 100.",
        )
    return values


def as_row(row: Numbers, tasks: int, what: str) -> Float[np.ndarray, "tasks"]:
    """Return one accuracy a task as float64; a scalar stands for all tasks; NaN = not measured."""
    values = _floats(row, f"{what}: one accuracy a task")
    values = np.full(tasks, float(values)) if values.ndim == 0 else values
    if values.shape != (tasks,) or not (np.isnan(values) | ((values >= 0) & (values <= 1))).all():
        raise MetricError(
            expected=f"{what}: {tasks} accuracies in [0, 1]",
            got=f"shape {values.shape}, values {values.tolist()}",
            remedy="Give one fraction for every task of the matrix.",
        )
    return values


def as_sizes(sizes: Numbers, tasks: int) -> Float[np.ndarray, "tasks"]:
    """Return the number of test samples of each task as float64, all at least 1."""
    values = _floats(sizes, "test sizes: one number a task")
    if values.shape != (tasks,) or not (np.isfinite(values) & (values >= 1)).all():
        raise MetricError(
            expected=f"{tasks} test sizes, each at least 1",
            got=f"shape {values.shape}, values {values.tolist()}",
            remedy="Give the number of test samples of every task.",
        )
    return values


def need(
    values: Float[np.ndarray, "tasks tasks"], cells: Iterable[tuple[int, int]], metric: str
) -> None:
    """Refuse `values` unless every one of `cells` was measured; the first missing one is named.

    >>> need(as_matrix([[0.5, None], [None, 1]]), [(0, 0), (1, 0)], "forgetting")
    Traceback (most recent call last):
    cpool.errors.MetricError: expected every accuracy that forgetting needs; got a gap: R[1, 0] \
(accuracy on task 0 after training task 1) is missing. Evaluate task 0 after training task 1.
    """
    for t, i in cells:
        if np.isnan(values[t, i]):
            raise MetricError(
                expected=f"every accuracy that {metric} needs",
                got=f"a gap: R[{t}, {i}] (accuracy on task {i} after training task {t}) is missing",
                remedy=f"Evaluate task {i} after training task {t}.",
            )


def two_tasks(values: Float[np.ndarray, "tasks tasks"], metric: str) -> None:
    """Refuse a matrix of one task, for which `metric` has no value (and 0 would be a lie)."""
    if len(values) < 2:
        raise MetricError(
            expected=f"at least 2 tasks, since {metric} compares a task with another one",
            got="1 task",
            remedy="Report it as not defined (null), not as 0.",
        )


def upto(
    values: Float[np.ndarray, "tasks tasks"], after: int | None
) -> tuple[Float[np.ndarray, "tasks tasks"], int]:
    """Return `values` and the row `after`, the last one when it is None."""
    last = len(values) - 1
    row = last if after is None else after
    if not 0 <= row <= last:
        raise MetricError(
            expected=f"`after` between 0 and {last}", got=str(after), remedy="Name a trained task."
        )
    return values, row


def lower(tasks: int) -> Sequence[tuple[int, int]]:
    """Return the cells (t, i) with i ≤ t, row by row."""
    return [(t, i) for t in range(tasks) for i in range(t + 1)]


def _floats(values: Numbers, what: str) -> Float[np.ndarray, "..."]:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MetricError(
            expected=what,
            got=f"{type(values).__name__} ({error})",
            remedy="Use rows of equal length; None or NaN where nothing was measured.",
        ) from error
