"""Si-Blurry: some classes in one task only, the others blurred over all tasks."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from cpool.errors import ConfigError
from cpool.streams._assemble import assemble
from cpool.streams._checks import check_flag, check_fraction, check_seed, check_validation
from cpool.streams._opened import Request, open_source
from cpool.streams._splits import held_out
from cpool.streams.base import Stream

__all__ = ["blurry"]


def blurry(
    of: Any,
    *,
    tasks: int = 5,
    seed: int = 0,
    validation: float | int = 0.1,
    disjoint: float | int = 0.5,
    blurry: float | int = 0.1,
    stochastic: bool = True,
    data: str | os.PathLike[str] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    options: dict[str, Any] | None = None,
) -> Stream:
    """Build a Si-Blurry stream: tasks without sharp borders, and of random numbers of classes.

    A share `disjoint` of the classes occurs in one task only. Of every other class a share
    `blurry` of the training examples goes, one by one, to a random other task. Validation and
    test examples stay in the task that the class was first given to.

    Args:
        of: a registered stream of class data, or a file or folder; a class-incremental `Stream`;
            or data as in `build_stream`.
        tasks: how many tasks, from 2.
        seed: draws classes, their sizes, the blurred examples and the validation split.
        validation: fraction of each class's training examples to hold out, in [0, 1).
        disjoint: share of the classes that stay in one task, in [0, 1] (N of the paper, as 1/100).
        blurry: share of the examples of the other classes that move, in [0, 1) (M of the paper).
        stochastic: draw how many classes each task brings, at least two if there are enough; else
            the tasks are alike.
        data: folder of the data sets; by default the environment's CPOOL_DATA.
        train_per_class: how many training examples of each class to keep; all by default.
        test_per_class: how many test examples of each class to keep; all by default.
        subset_seed: draws the kept examples; apart from `seed`, so that every seed sees the same.
        options: further options of the registered stream, such as `path`.

    Raises:
        ConfigError: an option that does not fit.
        DataError: the data is missing or of a wrong kind.

    >>> stream = blurry("split_digits", tasks=3, disjoint=0.5, blurry=0.2)
    >>> sum(len(task.classes) for task in stream) > 10, sum(len(task.test) for task in stream)
    (True, 360)

    Reference: J.-Y. Moon et al., Online Class Incremental Learning on Stochastic Blurry Task
    Boundary via Mask and Visual Prompt Tuning, ICCV 2023.
    """
    request = Request(data, train_per_class, test_per_class, subset_seed, options)
    seed, fraction = check_seed(seed), check_validation(validation)
    disjoint = check_fraction(disjoint, "disjoint", closed=True)
    moved = check_fraction(blurry, "blurry")
    source, name = open_source(of, request, seed)
    count = len(source.class_names)
    _check_tasks(tasks, count)
    rng = np.random.default_rng([seed, 4, 1])
    sizes = _sizes(count, tasks, rng if check_flag(stochastic, "stochastic") else None)
    groups = np.split(rng.permutation(count), np.cumsum(sizes)[:-1])
    home = np.empty(count, dtype=np.int64)
    for task, group in enumerate(groups):
        home[group] = task
    fixed = rng.permutation(count)[: int(disjoint * count + 0.5)]
    held = held_out(source.train.y, fraction, (seed, 0))
    where = home[source.train.y]
    for label in np.setdiff1d(np.arange(count), fixed).tolist():
        rows = np.flatnonzero((source.train.y == label) & ~held)
        number = min(int(moved * len(rows) + 0.5), len(rows) - 1)
        rows = rng.permutation(rows)[:number]
        where[rows] = (home[label] + rng.integers(1, tasks, number)) % tasks
    return assemble(
        source,
        [group.tolist() for group in groups],
        [np.flatnonzero((where == task) & ~held) for task in range(tasks)],
        held,
        name=f"{name}_blurry",
        seed=seed,
        task_names=[f"task {task}" for task in range(tasks)],
        arrangement={
            "name": "blurry",
            "disjoint": disjoint,
            "blurry": moved,
            "stochastic": stochastic,
            "disjoint_classes": sorted(source.class_names[c] for c in fixed.tolist()),
        },
    )


def _sizes(count: int, tasks: int, rng: np.random.Generator | None) -> npt.NDArray[np.int64]:
    """Return how many classes each task brings, [tasks]."""
    if rng is None:
        return np.array([count // tasks + (i < count % tasks) for i in range(tasks)])
    least = 2 if count >= 2 * tasks else 1
    spare = count - least * tasks
    cuts = np.sort(rng.integers(0, spare + 1, tasks - 1))
    return least + np.diff(np.concatenate([[0], cuts, [spare]]))


def _check_tasks(tasks: Any, count: int) -> None:
    if isinstance(tasks, bool) or not isinstance(tasks, int) or not 2 <= tasks <= count:
        raise ConfigError(
            expected=f"tasks from 2 to {count}, the number of classes",
            got=repr(tasks),
            remedy="A blurred class needs another task to go to.",
        )
