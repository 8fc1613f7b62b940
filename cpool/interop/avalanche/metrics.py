"""MatrixMetrics: cpool's metrics of a test stream, for the loggers of Avalanche."""

from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue

from cpool.metrics import AccuracyMatrix

__all__ = ["MatrixMetrics"]


class MatrixMetrics(PluginMetric[float]):  # type: ignore[misc]  # untyped base
    """Fill `matrix` with R[t, i] whenever a stream is evaluated, and emit what it allows.

    The metrics are those of the tasks learned so far, also where the whole stream is evaluated.
    Values are named "cpool/<metric>/<stream>": forgetting is from the best accuracy that a task
    ever had (`cpool.metrics.forgetting`), which Avalanche's own metric of that name is not; its
    values are computed from the same matrix by `cpool.metrics.variants`. What was measured
    while the model was new is no cell of the matrix. Evaluated twice after one experience, the
    later counts. Rows and columns are in the order of learning; joint training has the last row
    alone.

    Args:
        stream: name of the stream that is measured.
    """

    def __init__(self, stream: str = "test") -> None:
        super().__init__()
        self.stream = stream
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self._cells: dict[tuple[int, int], tuple[int, int]] = {}  # row, experience → right, seen
        self._learned: list[int] = []  # experiences, in the order in which they were
        self._right = self._seen = 0
        self._wrote = False

    @property
    def matrix(self) -> AccuracyMatrix:
        """The matrix so far, experiences to come included where they were evaluated."""
        return self._matrix(None)

    def _matrix(self, first: int | None) -> AccuracyMatrix:
        """Return the matrix of the first tasks; columns in the order in which they were learned."""
        others = sorted({experience for _, experience in self._cells} - {*self._learned})
        column = {experience: i for i, experience in enumerate([*self._learned, *others])}
        made = AccuracyMatrix()
        for (row, experience), (right, seen) in sorted(self._cells.items()):
            if first is None or max(row, column[experience]) < first:
                made.update(row, column[experience], right / seen, seen)
        return made

    def result(self) -> float | None:
        """Return the average accuracy over the tasks learned, where it is known."""
        return self._matrix(len(self._learned)).summary()["average_accuracy"]

    def before_training_exp(self, strategy: Any) -> None:
        """Note what is learned; evaluations on the way count for it, too."""
        for one in getattr(strategy, "_experiences", None) or [strategy.experience]:
            number = getattr(one, "origin_experience", one).current_experience
            if number not in self._learned:
                self._learned.append(number)

    def before_eval(self, strategy: Any) -> None:
        """Begin a row."""
        self._wrote = False

    def before_eval_exp(self, strategy: Any) -> None:
        """Begin to count."""
        self._right = self._seen = 0

    def after_eval_iteration(self, strategy: Any) -> None:
        """Count a batch."""
        super().after_eval_iteration(strategy)
        self._right += int((strategy.mb_output.argmax(dim=1) == strategy.mb_y).sum())
        self._seen += len(strategy.mb_y)

    def after_eval_exp(self, strategy: Any) -> None:
        """Write a cell."""
        experience = strategy.experience
        if experience.origin_stream.name == self.stream and self._seen and self._learned:
            cell = len(self._learned) - 1, experience.current_experience
            self._cells[cell] = self._right, self._seen
            self._wrote = True

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        """Emit every metric that the matrix allows now."""
        if not self._wrote:
            return []
        step = strategy.clock.train_iterations
        return [
            MetricValue(self, f"cpool/{name}/{self.stream}_stream", value, step)
            for name, value in self._matrix(len(self._learned)).summary().items()
            if value is not None
        ]

    def __str__(self) -> str:
        """Name it."""
        return "cpool"
