"""Task and Stream: a sequence of tasks, each with training, validation and test examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from cpool.errors import DataError
from cpool.streams.examples import Examples, Inputs

__all__ = ["Examples", "Inputs", "Modality", "Scenario", "Stream", "Task"]

Scenario = Literal["class", "domain", "task"]
Modality = Literal["image", "text", "features"]


@dataclass(frozen=True, eq=False)
class Task:
    """One task of a stream.

    Attributes:
        index: position in the stream, from 0.
        name: what tables and plots call it; unique in a stream.
        classes: the labels that occur in it, in order of arrival.
        train: examples to learn from.
        validation: examples held out of the training data; empty with `validation=0`.
        test: examples to measure on; a learner never trains on them.
    """

    index: int
    name: str
    classes: tuple[int, ...]
    train: Examples
    validation: Examples
    test: Examples


class Stream(Sequence[Task]):
    """Tasks in order of arrival; made by the builders of `cpool.streams`, never changed.

    Attributes:
        name: the registered name, or what the caller chose.
        scenario: "class" (new classes, no task id at test), "task" (new classes, task id known)
            or "domain" (same classes, new inputs).
        modality: "image", "text" or "features".
        seed: decides the order of classes and the validation split, nothing else.
        class_names: name of each label, C in all.
        class_order: the labels in order of arrival.
        fingerprint: SHA-256 of the data; the same for every seed and order of classes.

    Raises:
        DataError: no tasks, two tasks of one name, a task without training or test examples, or
            sample ids that are not unique.

    >>> from cpool.streams import split_digits
    >>> stream = split_digits(tasks=5, seed=0)
    >>> len(stream), stream[0].classes, len(stream[1:3]), len(stream.joint().train)
    (5, (4, 6), 2, 1292)
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        name: str,
        scenario: Scenario,
        modality: Modality,
        seed: int,
        class_names: Sequence[str],
        class_order: Sequence[int],
        fingerprint: str,
    ) -> None:
        self._tasks = tuple(tasks)
        self.name, self.seed, self.fingerprint = name, seed, fingerprint
        self.scenario: Scenario = scenario
        self.modality: Modality = modality
        self.class_names, self.class_order = tuple(class_names), tuple(class_order)
        _check(self._tasks)

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        """Return a task, or a list of tasks for a slice."""
        return list(self._tasks[index]) if isinstance(index, slice) else self._tasks[index]

    def joint(self) -> Task:
        """Return all tasks as one: the upper bound that a continual learner is compared with."""
        return Task(
            index=0,
            name="joint",
            classes=self.class_order,
            train=Examples.concat([task.train for task in self]),
            validation=Examples.concat([task.validation for task in self]),
            test=Examples.concat([task.test for task in self]),
        )

    def describe(self) -> dict[str, Any]:
        """Return what a results file records of the stream, as plain JSON values."""
        names = self.class_names
        return {
            "name": self.name,
            "scenario": self.scenario,
            "modality": self.modality,
            "tasks": len(self),
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "task_names": [task.name for task in self],
            "task_classes": [[names[c] for c in task.classes] for task in self],
            "class_names": list(names),
            "class_order": list(self.class_order),
            "train_sizes": [len(task.train) for task in self],
            "validation_sizes": [len(task.validation) for task in self],
            "test_sizes": [len(task.test) for task in self],
        }

    def __repr__(self) -> str:
        """Return a small table of the tasks."""
        rows: list[tuple[str, ...]] = [("task", "name", "classes", "train", "validation", "test")]
        for task in self:
            sizes = (len(task.classes), len(task.train), len(task.validation), len(task.test))
            rows.append((str(task.index), task.name, *(str(n) for n in sizes)))
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        table = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        head = (
            f"Stream {self.name!r}: {self.scenario}-incremental, {self.modality}, "
            f"{len(self.class_names)} classes in {len(self)} tasks, seed {self.seed}, "
            f"fingerprint {self.fingerprint[:8]}…"
        )
        return "\n".join([head, *table])


def _check(tasks: Sequence[Task]) -> None:
    names = [task.name for task in tasks]
    if not tasks or len(set(names)) != len(names):
        raise DataError(
            expected="at least one task, each with a name of its own",
            got=f"{len(tasks)} tasks named {names}",
            remedy="Name every task differently.",
        )
    for task in tasks:
        if not len(task.train) or not len(task.test):
            raise DataError(
                expected="training and test examples in every task",
                got=f"{len(task.train)} and {len(task.test)} in task {task.name!r}",
                remedy="Put the classes into fewer tasks, or add examples of these classes.",
            )
    ids = np.concatenate([s.ids for t in tasks for s in (t.train, t.validation, t.test)])
    if len(np.unique(ids)) != len(ids):
        raise DataError(
            expected="every sample in one split of one task only",
            got=f"{len(ids) - len(np.unique(ids))} repeated sample ids",
            remedy="Give every example an id of its own.",
        )
