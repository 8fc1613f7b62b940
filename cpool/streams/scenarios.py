"""Class- and task-incremental streams over data of your own: every task has its own classes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from cpool.errors import ConfigError
from cpool.streams._assemble import assemble
from cpool.streams._checks import check_seed, check_validation
from cpool.streams._source import Source, read_source, subset
from cpool.streams._splits import ClassOrder, Tasks, divide_classes, held_out
from cpool.streams.base import Stream

__all__ = ["by_class", "class_incremental", "task_incremental"]


def class_incremental(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    *,
    tasks: Tasks = 5,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    class_order: ClassOrder = None,
    task_names: Sequence[str] | None = None,
    validation: float | int = 0.1,
    scenario: Literal["class", "task"] = "class",
    name: str = "class_incremental",
) -> Stream:
    """Build a stream in which every task brings classes of its own, and no task id at test.

    Args:
        x: training inputs: uint8 images [n H W] or [n H W 1|3] (or float in [0, 1]), float
            features [n Q], texts, or `ImagePaths`; arrays, tensors (then also [n 3 H W]) or
            lists. With `y=None`, a map-style data set that yields (x, y); it is read once.
        y: training labels, integers 0..C-1 [n].
        x_test: test inputs, like `x`.
        y_test: test labels, like `y`.
        tasks: how many tasks; the first C mod tasks of them get one class more. Or the classes
            of each task, as lists of labels or names.
        seed: shuffles the classes and draws the validation split, with generators of its own.
        class_names: one name a class; by default "0", "1", ….
        class_order: labels or names in order of arrival, instead of the seeded order.
        task_names: one name a task; by default made of its classes.
        validation: fraction of each class's training examples to hold out, in [0, 1); a class
            of two examples or more gives at least one and keeps at least one.
        scenario: "task" if a learner may know the task of a test example.
        name: what results call the stream.

    Raises:
        DataError: inputs or labels of a wrong kind; the message says which.
        ConfigError: tasks, order, names, seed or validation that do not fit the classes.

    >>> x = np.zeros((8, 4, 4), dtype=np.uint8)
    >>> y = [0, 0, 1, 1, 2, 2, 3, 3]
    >>> stream = class_incremental(x, y, x, y, tasks=2, class_order=[3, 1, 0, 2])
    >>> [task.classes for task in stream]
    [(3, 1), (0, 2)]
    >>> stream[0].train.ids.tolist(), stream[0].test.ids.tolist()
    ([2, 7], [10, 11, 14, 15])
    """
    source = read_source(x, y, x_test, y_test, class_names)
    return by_class(
        source,
        tasks=tasks,
        seed=seed,
        class_order=class_order,
        task_names=task_names,
        validation=validation,
        scenario=scenario,
        name=name,
    )


def task_incremental(x: Any, y: Any, x_test: Any, y_test: Any, **options: Any) -> Stream:
    """Build the stream of `class_incremental`, with the task of each test example known.

    Arguments and errors are those of `class_incremental`.

    >>> x, y = ["good", "bad", "cat", "dog"], [0, 1, 2, 3]
    >>> task_incremental(x, y, x, y, tasks=2, validation=0).scenario
    'task'
    """
    options = {"name": "task_incremental", **options, "scenario": "task"}
    return class_incremental(x, y, x_test, y_test, **options)


def by_class(
    source: Source,
    *,
    tasks: Tasks,
    seed: int,
    validation: float | int,
    name: str,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    class_order: ClassOrder = None,
    task_names: Sequence[str] | None = None,
    scenario: Literal["class", "task"] = "class",
    arrangement: Mapping[str, Any] | None = None,
) -> Stream:
    """Cut a checked source into tasks by class; what every class-incremental builder ends in.

    Args:
        source: the data.
        tasks: as in `class_incremental`.
        seed: as in `class_incremental`.
        validation: as in `class_incremental`.
        name: what results call the stream.
        train_per_class: how many training examples of each class to keep; all by default.
        test_per_class: how many test examples of each class to keep; all by default.
        subset_seed: draws the kept examples; apart from `seed`, so that every seed sees the same.
        class_order: as in `class_incremental`.
        task_names: as in `class_incremental`.
        scenario: as in `class_incremental`.
        arrangement: as in `Stream`.

    Raises:
        ConfigError: as in `class_incremental`, or a scenario that is neither "class" nor "task".
    """
    if scenario not in ("class", "task"):
        raise ConfigError(
            expected='scenario "class" or "task"',
            got=repr(scenario),
            remedy='Use "task" only if a learner may know the task at test.',
        )
    seed, fraction = check_seed(seed), check_validation(validation)
    source = subset(source, train_per_class, test_per_class, subset_seed)
    groups = divide_classes(source.class_names, tasks, seed, class_order)
    held = held_out(source.train.y, fraction, (seed, 0))
    rows = [np.flatnonzero(np.isin(source.train.y, group) & ~held) for group in groups]
    return assemble(
        source,
        groups,
        rows,
        held,
        name=name,
        seed=seed,
        scenario=scenario,
        task_names=task_names,
        arrangement=arrangement,
    )
