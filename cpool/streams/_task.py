"""Task: one step of a stream; and what makes tasks a stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cpool.errors import DataError
from cpool.streams.examples import Examples

__all__ = ["Task", "check_labels", "check_tasks"]


@dataclass(frozen=True, eq=False)
class Task:
    """One task of a stream.

    Attributes:
        index: position in the stream, from 0.
        name: what tables and plots call it; unique in a stream.
        classes: the labels that its training examples have, in order of arrival: those that the
            task brings, then those of other tasks that come by (blurry and repeated streams).
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


def check_tasks(tasks: Sequence[Task]) -> None:
    """Refuse tasks that make no stream.

    Raises:
        DataError: none, two of one name, one without training or test examples, or sample ids
            that are not unique.
    """
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


def check_labels(tasks: Sequence[Task], names: Sequence[str], order: Sequence[int]) -> None:
    """Refuse classes and labels that do not fit the tasks.

    Raises:
        DataError: a class in no task, or a label that its task does not name.
    """
    placed = {label for task in tasks for label in task.classes}
    missing = [names[label] for label in range(len(names)) if label not in placed]
    if missing or sorted(order) != list(range(len(names))):
        raise DataError(
            expected=f"each of the {len(names)} classes in a task, and once in the order",
            got=f"no task for {missing[:5]}" if missing else f"the order {list(order)[:10]}",
            remedy="Put these classes into a task, or build the stream of a part of the classes: "
            "build_stream(…, classes=[…]).",
        )
    for task in tasks:
        for split in (task.train, task.validation, task.test):
            strange = sorted(set(np.unique(split.y).tolist()) - set(task.classes))
            if strange:
                raise DataError(
                    expected=f"labels among the classes of task {task.name!r}",
                    got=f"{strange[:5]}",
                    remedy="Name every class that occurs in a task in its classes.",
                )
