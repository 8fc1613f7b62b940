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
    later counts.

    Args:
        stream: name of the stream that is measured.
    """

    def __init__(self, stream: str = "test") -> None:
        super().__init__()
        self.stream = stream
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self._cells: dict[tuple[int, int], tuple[int, int]] = {}
        self._right = self._seen = 0
        self._trained = -1

    @property
    def matrix(self) -> AccuracyMatrix:
        """The matrix so far, tasks to come included where they were evaluated."""
        return self._matrix(max((i for cell in self._cells for i in cell), default=-1))

    def _matrix(self, last: int) -> AccuracyMatrix:
        """Return the matrix of the tasks up to one."""
        made = AccuracyMatrix()
        for (trained, evaluated), (right, seen) in sorted(self._cells.items()):
            if max(trained, evaluated) <= last:
                made.update(trained, evaluated, right / seen, seen)
        return made

    def result(self) -> float | None:
        """Return the average accuracy over the tasks learned, where it is known."""
        return self._matrix(self._trained).summary()["average_accuracy"] if self._cells else None

    def before_training_exp(self, strategy: Any) -> None:
        """Note which experience is learned; evaluations on the way count for it."""
        self._trained = strategy.clock.train_exp_counter

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
        ours = experience.origin_stream.name == self.stream
        if ours and self._seen and self._trained >= 0:
            cell = self._trained, experience.current_experience
            self._cells[cell] = self._right, self._seen

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        """Emit every metric that the matrix allows now."""
        if not self._cells:
            return []
        step = strategy.clock.train_iterations
        return [
            MetricValue(self, f"cpool/{name}/{self.stream}_stream", value, step)
            for name, value in self._matrix(self._trained).summary().items()
            if value is not None
        ]

    def __str__(self) -> str:
        """Name it."""
        return "cpool"
