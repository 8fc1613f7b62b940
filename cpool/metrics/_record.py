"""The checks behind AccuracyMatrix: of one cell, and of a JSON record of all of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cpool.errors import DataError, MetricError
from cpool.metrics._check import as_matrix, as_sizes

__all__ = ["check_cell", "parse", "to_record"]

SCHEMA = 1


def check_cell(trained: int, evaluated: int, accuracy: float, n: int, tasks: int | None) -> None:
    """Refuse what cannot be a cell of a matrix of `tasks` tasks (None: of any number).

    Raises:
        MetricError: an index outside the matrix, no fraction, or no samples.
    """
    for name, task in (("trained", trained), ("evaluated", evaluated)):
        if task < 0 or (tasks is not None and task >= tasks):
            span = "on" if tasks is None else f"to {tasks - 1}"
            raise MetricError(
                expected=f"`{name}` to be a task from 0 {span}",
                got=str(task),
                remedy="Tasks are counted from 0, in the order of the stream.",
            )
    if not 0 <= accuracy <= 1:
        raise MetricError(
            expected="an accuracy as a fraction in [0, 1]",
            got=f"{accuracy:g}",
            remedy="Divide percentages by 100; leave out what was not measured.",
        )
    if n < 1:
        raise MetricError(
            expected="at least 1 test sample behind an accuracy",
            got=f"n = {n}",
            remedy="Leave out a task without test data.",
        )


def to_record(
    values: Float[np.ndarray, "tasks tasks"], sizes: Int[np.ndarray, "tasks"]
) -> dict[str, Any]:
    """Return the JSON record of a matrix, null where nothing was measured."""
    rows = [[None if np.isnan(v) else float(v) for v in row] for row in values]
    test_sizes = [int(n) or None for n in sizes]
    return {"schema": SCHEMA, "accuracy_matrix": rows, "test_sizes": test_sizes}


def parse(
    record: Any,
) -> tuple[Float[np.ndarray, "tasks tasks"], Int[np.ndarray, "tasks"]]:
    """Return the accuracies [tasks, tasks] and test sizes [tasks] of a record, checked.

    Raises:
        DataError: no accuracy matrix in it, or a newer schema.
        MetricError: the numbers are no accuracy matrix, or the sizes do not fit.
    """
    if not isinstance(record, Mapping) or "accuracy_matrix" not in record:
        raise DataError(
            expected="a JSON object with the key 'accuracy_matrix'",
            got=f"keys {sorted(record)}" if isinstance(record, Mapping) else repr(record)[:60],
            remedy="Give what AccuracyMatrix.to_json returned, or one run of a results.json.",
        )
    if record.get("schema", SCHEMA) != SCHEMA:
        raise DataError(
            expected=f"an accuracy matrix of schema {SCHEMA}",
            got=f"schema {record['schema']!r}",
            remedy="Read it with the version of cpool that wrote it, or a newer one.",
        )
    if record["accuracy_matrix"] == []:
        return np.zeros((0, 0)), np.zeros(0, dtype=np.int64)
    values = as_matrix(record["accuracy_matrix"])
    sizes = record.get("test_sizes") or [None] * len(values)
    known = as_sizes([1 if n is None else n for n in sizes], len(values)).astype(np.int64)
    return values, np.where([n is None for n in sizes], 0, known)
