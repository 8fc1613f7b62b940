"""Task and Stream: a sequence of tasks, each with training, validation and test examples."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from cpool.streams._task import Task, check_labels, check_tasks
from cpool.streams.examples import Examples, Inputs

__all__ = ["Examples", "Inputs", "Modality", "Scenario", "Stream", "Task"]

Scenario = Literal["class", "domain", "task"]
Modality = Literal["image", "text", "features"]


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
        arrangement: what arranged the tasks other than by class or domain, with its options and
            what only it knows, such as the true boundaries; plain JSON values, empty if nothing.
        true_labels: sample id → true label, of the training examples whose label was changed.

    Raises:
        DataError: no tasks, two tasks of one name, a task without training or test examples, a
            class that is in no task, a label that its task does not name, or sample ids that are
            not unique.

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
        arrangement: Mapping[str, Any] | None = None,
        true_labels: Mapping[int, int] | None = None,
    ) -> None:
        self._tasks = tuple(tasks)
        self.name, self.seed, self.fingerprint = name, seed, fingerprint
        self.scenario: Scenario = scenario
        self.modality: Modality = modality
        self.class_names, self.class_order = tuple(class_names), tuple(class_order)
        self.arrangement = dict(arrangement or {})
        self.true_labels = dict(true_labels or {})
        check_tasks(self._tasks)
        check_labels(self._tasks, self.class_names, self.class_order)

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

    def replaced(self, tasks: Sequence[Task], **changes: Any) -> "Stream":
        """Return a stream of other tasks, which keeps all that `changes` do not name."""
        kept = {
            key: getattr(self, key)
            for key in (
                "name",
                "scenario",
                "modality",
                "seed",
                "class_names",
                "class_order",
                "fingerprint",
                "arrangement",
                "true_labels",
            )
        }
        return Stream(tasks, **{**kept, **changes})

    def clean_labels(self, examples: Examples) -> npt.NDArray[np.int64]:
        """Return the true labels [n] of examples of this stream, also where noise changed them."""
        pairs = zip(examples.ids.tolist(), examples.y.tolist(), strict=True)
        return np.array([self.true_labels.get(i, y) for i, y in pairs], dtype=np.int64)

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
            "arrangement": self.arrangement,
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
