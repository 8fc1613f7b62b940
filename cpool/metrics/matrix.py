"""AccuracyMatrix: what was measured when, filled cell by cell while a stream is learned."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cpool._io import read_json, write_json
from cpool.errors import CheckpointError, DataError, MetricError
from cpool.metrics import functional
from cpool.metrics._check import as_row
from cpool.metrics._record import check_cell, parse, to_record

__all__ = ["AccuracyMatrix"]


class AccuracyMatrix:
    """The accuracies R[t, i] on task i after training task t; what was not measured is NaN.

    Args:
        tasks: number of tasks; None lets the matrix grow with what is added to it.

    Raises:
        MetricError: `tasks` is not a positive number.

    >>> matrix = AccuracyMatrix(tasks=2)
    >>> matrix.update(trained=0, evaluated=0, accuracy=0.75, n=10)
    >>> matrix.update(trained=1, evaluated=0, accuracy=0.5, n=10)
    >>> matrix.update(trained=1, evaluated=1, accuracy=1.0, n=30)
    >>> matrix.summary()["forgetting"], matrix.summary()["forward_transfer"]
    (0.25, None)
    >>> matrix
    AccuracyMatrix, 2 tasks; row: after training, column: test task
              task 0   task 1
    after 0    0.750        —
    after 1    0.500    1.000
    n             10       30
    """

    def __init__(self, tasks: int | None = None) -> None:
        if tasks is not None and (isinstance(tasks, bool) or tasks < 1):
            raise MetricError(
                expected="a number of tasks of at least 1, or None to grow",
                got=repr(tasks),
                remedy="Leave it out when the length of the stream is not known.",
            )
        self._fixed = tasks is not None
        self._values = np.full((tasks or 0, tasks or 0), np.nan)
        self._sizes = np.zeros(tasks or 0, dtype=np.int64)

    @property
    def tasks(self) -> int:
        """Number of tasks the matrix has room for."""
        return len(self._values)

    @property
    def values(self) -> Float[np.ndarray, "tasks tasks"]:
        """A copy of R [tasks, tasks]; NaN = not measured."""
        return self._values.copy()

    @property
    def sizes(self) -> Int[np.ndarray, "tasks"]:
        """A copy of the test samples of each task [tasks]; 0 = never evaluated."""
        return self._sizes.copy()

    def update(self, trained: int, evaluated: int, accuracy: float, n: int) -> None:
        """Write one cell.

        Args:
            trained: the task just trained, from 0.
            evaluated: the task tested, from 0.
            accuracy: fraction of right answers, in [0, 1].
            n: number of test samples behind it, at least 1, the same for a task every time.

        Raises:
            MetricError: an index outside the matrix, an accuracy outside [0, 1], another `n` than
                before, or a cell that already holds another accuracy.
        """
        check_cell(trained, evaluated, accuracy, n, tasks=self.tasks if self._fixed else None)
        inside = max(trained, evaluated) < self.tasks
        old = float(self._values[trained, evaluated]) if inside else np.nan
        size = int(self._sizes[evaluated]) if evaluated < self.tasks else 0
        if not np.isnan(old) and old != accuracy:
            raise MetricError(
                expected=f"R[{trained}, {evaluated}] to be written once",
                got=f"{accuracy:g} over {old:g}",
                remedy="Start a new AccuracyMatrix for a new run.",
            )
        if size not in (0, n):
            raise MetricError(
                expected=f"{size} test samples for task {evaluated}, as before",
                got=f"n = {n}",
                remedy="Evaluate a task on the same test data every time.",
            )
        self._grow(max(trained, evaluated) + 1)  # only now: a refused update changes nothing
        self._values[trained, evaluated], self._sizes[evaluated] = accuracy, n

    def summary(self, baseline: Any = None, joint: Any = None) -> dict[str, float | None]:
        """Compute every metric that the filled cells allow; the others are None, never 0.

        Args:
            baseline: accuracies of the untrained model [tasks], for forward transfer.
            joint: accuracies of joint training [tasks] or one number, for intransigence.

        Raises:
            MetricError: a given `baseline` or `joint` has a wrong length or values.
        """
        values, sizes, tasks = self._values, self._sizes, self.tasks
        base = None if baseline is None else as_row(baseline, tasks, "baseline")
        upper = None if joint is None else as_row(joint, tasks, "joint accuracy")
        f = functional
        metrics: dict[str, Callable[[], float] | None] = {
            "average_accuracy": lambda: f.average_accuracy(values),
            "average_accuracy_weighted": lambda: f.average_accuracy_weighted(values, sizes),
            "average_incremental_accuracy": lambda: f.average_incremental_accuracy(values),
            "forgetting": lambda: f.forgetting(values),
            "backward_transfer": lambda: f.backward_transfer(values),
            "forward_transfer": None if base is None else lambda: f.forward_transfer(values, base),
            "learning_accuracy": lambda: f.learning_accuracy(values),
            "intransigence": None if upper is None else lambda: f.intransigence(values, upper),
        }
        return {name: _or_none(metric) for name, metric in metrics.items()}

    def to_json(self) -> dict[str, Any]:
        """Return plain lists for JSON: `accuracy_matrix` and `test_sizes`, null = not measured.

        >>> AccuracyMatrix(1).to_json()
        {'schema': 1, 'accuracy_matrix': [[None]], 'test_sizes': [None]}
        """
        return to_record(self._values, self._sizes)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "AccuracyMatrix":
        """Rebuild what `to_json` gave; an entry of `runs` in a `results.json` does as well.

        Raises:
            DataError: no accuracy matrix in it, or a newer schema.
            MetricError: the numbers are no accuracy matrix, or the sizes do not fit.
        """
        return cls._of(*parse(record))

    def save(self, path: Path | str) -> None:
        """Write the matrix as JSON, atomically.

        Raises:
            CheckpointError: the file cannot be written; what was there is as it was.
        """
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> "AccuracyMatrix":
        """Read a matrix that `save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or holds something else.
        """
        record = read_json(path)
        try:
            return cls._of(*parse(record))
        except (DataError, MetricError) as error:
            raise CheckpointError(
                expected=f"an accuracy matrix in {path}", got=error.got, remedy=error.remedy
            ) from error

    def plot(self, title: str = "Accuracy of each task over time") -> Any:
        """Return the matrix as a plotly heatmap figure; plotly is imported here, not before."""
        from cpool.metrics._show import heatmap

        return heatmap(self._values, title)

    def __repr__(self) -> str:
        """Lay the accuracies out as a table."""
        from cpool.metrics._show import text_table

        return text_table(self._values, self._sizes)

    def __eq__(self, other: object) -> bool:
        """Tell whether the same cells hold the same accuracies, and the test sizes agree."""
        if not isinstance(other, AccuracyMatrix):
            return NotImplemented
        return np.array_equal(self._values, other._values, equal_nan=True) and np.array_equal(
            self._sizes, other._sizes
        )

    __hash__ = None  # type: ignore[assignment]  # it changes with every update

    @classmethod
    def _of(
        cls, values: Float[np.ndarray, "tasks tasks"], sizes: Int[np.ndarray, "tasks"]
    ) -> "AccuracyMatrix":
        matrix = cls()
        matrix._values, matrix._sizes, matrix._fixed = values, sizes, len(values) > 0
        return matrix

    def _grow(self, tasks: int) -> None:
        if tasks > self.tasks:
            more = (0, tasks - self.tasks)
            self._values = np.pad(self._values, (more, more), constant_values=np.nan)
            self._sizes = np.pad(self._sizes, more)


def _or_none(metric: Callable[[], float] | None) -> float | None:
    """Return the metric, or None where a cell it needs was not measured."""
    try:
        return None if metric is None else metric()
    except MetricError:
        return None
