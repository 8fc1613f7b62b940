"""Class-incremental with repetition: classes come again, examples do not."""

import os
from typing import Any

import numpy as np

from cpool.errors import DataError
from cpool.streams._assemble import assemble
from cpool.streams._checks import check_fraction, check_seed, check_validation
from cpool.streams._opened import Request, open_source
from cpool.streams._splits import divide_classes, held_out
from cpool.streams.base import Stream

__all__ = ["repeated"]


def repeated(
    of: Any,
    *,
    tasks: int = 5,
    seed: int = 0,
    validation: float | int = 0.1,
    probability: float | int = 0.3,
    data: str | os.PathLike[str] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    options: dict[str, Any] | None = None,
) -> Stream:
    """Build a stream in which every task brings new classes, and old ones come again by chance.

    A class occurs in the task that brings it, and in each later one with `probability`,
    independently; its training examples are divided evenly among these tasks, so that no example
    comes twice. Validation and test examples stay in the task that brings the class.

    Args:
        of: as in `blurry`.
        tasks: how many tasks.
        seed: draws order and repetition of classes, who gets which example, and the validation.
        validation: as in `blurry`.
        probability: of each class to come again in each later task, in [0, 1].
        data: as in `blurry`.
        train_per_class: as in `blurry`.
        test_per_class: as in `blurry`.
        subset_seed: as in `blurry`.
        options: as in `blurry`.

    Raises:
        ConfigError: an option that does not fit.
        DataError: a class with fewer training examples than tasks it occurs in, or missing data.

    >>> stream = repeated("split_digits", probability=1.0)
    >>> [len(task.classes) for task in stream]
    [2, 4, 6, 8, 10]

    Reference: H. Hemati et al., Class-Incremental Learning with Repetition, CoLLAs 2023.
    """
    request = Request(data, train_per_class, test_per_class, subset_seed, options)
    seed, fraction = check_seed(seed), check_validation(validation)
    again = check_fraction(probability, "probability", closed=True)
    source, name = open_source(of, request, seed)
    groups = divide_classes(source.class_names, tasks, seed, None)
    held = held_out(source.train.y, fraction, (seed, 0))
    where = np.full(len(held), -1, dtype=np.int64)
    for first, group in enumerate(groups):
        for label in group:
            rng = np.random.default_rng([seed, 6, label + 1])
            later = np.arange(first + 1, len(groups))
            occurs = np.concatenate([[first], later[rng.random(len(later)) < again]])
            rows = rng.permutation(np.flatnonzero((source.train.y == label) & ~held))
            if len(rows) < len(occurs):
                raise DataError(
                    expected="a training example for each task that a class occurs in",
                    got=f"{len(rows)} of class {source.class_names[label]!r} "
                    f"for {len(occurs)} tasks",
                    remedy="Lower the probability or the number of tasks.",
                )
            for task, part in zip(occurs.tolist(), np.array_split(rows, len(occurs)), strict=True):
                where[part] = task
    return assemble(
        source,
        groups,
        [np.flatnonzero(where == task) for task in range(len(groups))],
        held,
        name=f"{name}_repeated",
        seed=seed,
        task_names=[f"task {task}" for task in range(len(groups))],
        arrangement={"name": "repeated", "probability": again},
    )
