"""Border: where a task begins and ends, in the order and with the seeds of `cpool.Learner`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cpool.demands import check_trainable
from cpool.draws import Draws
from cpool.errors import ConfigError, DataError, StateError
from cpool.feed import Feed
from cpool.interop.lightning.loader import TaskData
from cpool.model_checks import class_labels
from cpool.settings import TrainSettings
from cpool.streams import Examples, Task

__all__ = ["Border", "NextTask"]

Batches = Iterable[Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class NextTask:
    """A task that is to begin.

    Attributes:
        classes: its classes, in order.
        examples: its training data; None where only batches are known.
        batches: its training data as batches, where there are no examples.
        number: of the task; None for the next one, whichever it is.
    """

    classes: tuple[int, ...]
    examples: Examples | None
    batches: Batches
    number: int | None

    @classmethod
    def of(cls, task: Any, batches: Batches) -> "NextTask":
        """Return a task, examples, or class numbers as what is to begin.

        Raises:
            DataError: none of them, or no training data.
        """
        examples = task.train if isinstance(task, Task) else task
        number = task.index if isinstance(task, Task) else None
        if not isinstance(examples, Examples):
            if isinstance(task, str) or not isinstance(task, Iterable):
                raise DataError(
                    expected="a task of a stream, examples, or class numbers",
                    got=type(task).__name__,
                    remedy="Pass stream[0], or cpool.data.as_examples((x, y)).",
                )
            return cls(tuple(class_labels(list(task))), None, batches, number)
        if not len(examples):
            raise DataError(
                expected="at least one training sample", got="none", remedy="Pass some data."
            )
        classes = task.classes if isinstance(task, Task) else set(examples.y.tolist())
        return cls(tuple(class_labels(list(classes))), examples, (), number)


class Border:
    """Begins and ends the tasks of a model.

    Args:
        feed: of the model.
        settings: how it is trained.
        seed: of everything random in training.

    Attributes:
        expected: the task that is to begin.
        data: of the running task, where it is known.
        draws: the random numbers of the running task.
        running: whether a task has begun and not ended.
    """

    def __init__(self, feed: Feed, settings: TrainSettings, seed: int) -> None:
        self.feed, self.model, self.settings, self.seed = feed, feed.model, settings, seed
        self.draws = Draws()
        self.reset()
        self.expected: NextTask | None = None

    def reset(self) -> None:
        """Be between two tasks."""
        self.running, self.data = False, None

    running: bool
    data: TaskData | None

    @property
    def trains(self) -> bool:
        """Whether anything trains in the running task."""
        return next(self.model.parameters(), None) is not None

    def expect(self, task: NextTask) -> None:
        """Note the task that is to begin; go on with it where it is running.

        Raises:
            ConfigError: class numbers alone, for a method that needs the data.
            StateError: another task is running.
        """
        if task.examples is None:
            unfit = [r for r in self.model.each_rule() if r.needs_raw or r.judges]
            if unfit:
                raise ConfigError(
                    expected="a method that learns from batches",
                    got=f"{type(unfit[0]).__name__}, which reads raw inputs or holds rows back",
                    remedy="Give the task with its data: TaskCallback(stream[0]).",
                )
            if self.model.needs_start and not isinstance(task.batches, Task) and not task.batches:
                raise ConfigError(
                    expected="the task's training data, from which keys or heads start",
                    got="none",
                    remedy="Use TaskCallback(stream[0]), or TaskCallback(classes, batches=loader).",
                )
        if not self.running:
            self.expected = task
            return
        last = len(self.model.tasks) - 1
        if self.model.tasks[last] != task.classes or task.number not in (None, last):
            raise StateError(
                expected=f"task {last} with the classes {self.model.tasks[last]}, which is running",
                got=f"another one, with the classes {task.classes}",
                remedy="Train that one to its end, or load the module from before it.",
            )
        if task.examples is not None:
            self.data = TaskData(self.feed, task.examples, self.seed, last)

    def begin(self) -> int:
        """Begin the task that is expected: freeze what is old, grow what is new.

        Raises:
            StateError: the task was learned before or is not the next; nothing can train in it.
            DataError: one class alone, where those of the task compete.
        """
        if self.expected is None:  # goes on with the one that is running
            return len(self.model.tasks) - 1
        task, number = self.expected, len(self.model.tasks)
        if task.number not in (None, number):
            raise StateError(
                expected=f"task {number}, the next one to learn",
                got=f"task {task.number}",
                remedy="Tasks are learned once and in order; load a checkpoint from before it: "
                "PromptModule.load_from_checkpoint, or ckpt_path=… of fit.",
            )
        check_trainable(self.model, self.settings, task.classes, f"task {number}", number)
        data = None
        if task.examples is not None:
            data = TaskData(self.feed, task.examples, self.seed, number)
        self.draws.start(self.seed, "task", number)
        with self.draws():
            self.model.begin_task(
                list(task.classes), batches=task.batches if data is None else data
            )
            # What has grown is where the model is, but may be on the CPU in a method of one's own.
            self.model.to(self.model.backbone.device)
            if self.model.needs_raw and task.examples is not None:
                self.model.study(task.examples.x, task.examples.y)
        if not self.trains and not (self.model.head.fits or self.model.head.ready):
            raise StateError(
                expected="something that trains in this task",
                got=f"nothing in task {number}: all of it was frozen by earlier tasks",
                remedy="Set freeze_old=False where the same classes come again.",
            )
        self.running, self.data, self.expected = True, data, None
        return number

    def end(self, batches: Batches) -> None:
        """End the running task on its data.

        Args:
            batches: the data, where the task was begun without.

        Raises:
            StateError: no task is running.
        """
        if not self.running:
            raise StateError(
                expected="a task that has begun",
                got="a model between two tasks",
                remedy="Call begin_task first; `TaskCallback` does.",
            )
        with self.draws():
            self.model.end_task(batches if self.data is None else self.data.finish())
        self.reset()
        self.feed.refresh()
