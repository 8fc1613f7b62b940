"""MatrixMetrics: cpool's metrics of a test stream, for the loggers of Avalanche."""

from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue

from cpool.errors import StateError
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

    A stream of another length than the training stream (`ni_benchmark`, repetition) has no
    experience of each task: there is no matrix, and what is emitted are the two averages over its
    experiences as they are now.

    Args:
        stream: name of the stream that is measured.
        experiences: also emit accuracy and forgetting of each experience, under the names that
            `CSVLogger` looks for ("Top1_Acc_Exp_cpool/…", "ExperienceForgetting_cpool/…"); it
            writes nothing else, and 0 for what no metric gives.
    """

    def __init__(self, stream: str = "test", *, experiences: bool = False) -> None:
        super().__init__()
        self.stream, self.experiences = stream, experiences
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self._cells: dict[tuple[int, int], tuple[int, int]] = {}  # row, experience → right, seen
        self._learned: list[int] = []  # experiences, in the order in which they were
        self._right = self._seen = 0
        self._wrote = False
        self._tasks: int | None = None  # experiences of the training stream
        self._paired = True  # whether the stream has an experience of each task

    @property
    def matrix(self) -> AccuracyMatrix:
        """The matrix so far, experiences to come included where they were evaluated.

        Raises:
            StateError: the stream has another length than the training stream.
        """
        if not self._paired:
            raise StateError(
                expected="a test stream with an experience for each of training",
                got="one of another length, whose experiences belong to no task",
                remedy="Read the averages that are emitted, or make the stream with as_stream.",
            )
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
        return self._summary()["average_accuracy"]

    def _summary(self) -> dict[str, float | None]:
        if self._paired:
            return self._matrix(len(self._learned)).summary()
        row = len(self._learned) - 1
        cells = [cell for (trained, _), cell in self._cells.items() if trained == row]
        right, seen = (sum(numbers) for numbers in zip(*cells, strict=True)) if cells else (0, 0)
        return {
            "average_accuracy": sum(r / n for r, n in cells) / len(cells) if cells else None,
            "average_accuracy_weighted": right / seen if cells else None,
        }

    def before_training_exp(self, strategy: Any) -> None:
        """Note what is learned; evaluations on the way count for it, too."""
        for one in getattr(strategy, "_experiences", None) or [strategy.experience]:
            origin = getattr(one, "origin_experience", one)
            number, self._tasks = origin.current_experience, _length(origin.origin_stream)
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

    def after_eval_exp(self, strategy: Any) -> list[MetricValue]:
        """Write a cell, and emit what is asked for of the experience."""
        experience = strategy.experience
        stream = experience.origin_stream
        if stream.name != self.stream or not self._seen or not self._learned:
            return []
        row, number = len(self._learned) - 1, experience.current_experience
        self._paired = self._tasks == _length(stream)
        self._cells[row, number] = self._right, self._seen
        self._wrote = True
        if not self.experiences:
            return []
        now = self._right / self._seen
        found = {"Top1_Acc_Exp": now}
        since = self._learned.index(number) if self._paired and number in self._learned else row
        before = [self._cells[t, number] for t in range(since, row) if (t, number) in self._cells]
        if before:
            found["ExperienceForgetting"] = max(right / seen for right, seen in before) - now
        place, step = f"{self.stream}_stream/Exp{number:03d}", strategy.clock.train_iterations
        return [
            MetricValue(self, f"{name}_cpool/eval_phase/{place}", value, step)
            for name, value in found.items()
        ]

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        """Emit every metric that the matrix allows now."""
        if not self._wrote:
            return []
        step = strategy.clock.train_iterations
        return [
            MetricValue(self, f"cpool/{name}/{self.stream}_stream", value, step)
            for name, value in self._summary().items()
            if value is not None
        ]

    def __str__(self) -> str:
        """Name it."""
        return "cpool"


def _length(stream: Any) -> int | None:
    """Return how many experiences a stream has, also of a slice of it; None if it does not know."""
    streams = getattr(getattr(stream, "benchmark", None), "streams", {})
    whole = streams.get(stream.name, stream)
    return len(whole) if hasattr(whole, "__len__") else None
