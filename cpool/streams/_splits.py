"""Seeded choices: the order of classes, their division into tasks, and held-out examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cpool.errors import ConfigError

__all__ = [
    "ClassOrder",
    "Tasks",
    "dealt",
    "divide_classes",
    "draw_per_class",
    "held_out",
]

ClassOrder = Sequence[int | str] | npt.NDArray[Any] | None
Tasks = int | Sequence[Sequence[int | str]]


def held_out(
    y: npt.NDArray[np.int64], fraction: float, key: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Return a mask [n] of the validation examples; no class loses its last training example."""
    return draw_per_class(y, fraction, key) if fraction else np.zeros(len(y), dtype=np.bool_)


def draw_per_class(
    y: npt.NDArray[np.int64], size: float | int, key: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Return a mask [n] of examples drawn from every class alike.

    A `size` below 1 is a fraction, rounded half up, at least 1 and at most all but one of a class
    (none of a class with a single example); otherwise it is a number for each class, at most all.
    Every class has a generator of its own, so the draw depends on no order of classes.
    """
    mask = np.zeros(len(y), dtype=np.bool_)
    for label in np.unique(y).tolist():
        rows = np.flatnonzero(y == label)
        number = min(int(size), len(rows))
        if size < 1:
            number = min(max(int(size * len(rows) + 0.5), 1), len(rows) - 1)
        # numpy reads [7, 0, 0] as 7, which shuffles the classes: no key may end in 0.
        order = np.random.default_rng([*key, label + 1]).permutation(len(rows))
        mask[rows[order[:number]]] = True
    return mask


def dealt(groups: npt.NDArray[np.int64], count: int, key: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return to which of `count` receivers each example [n] goes: the groups, shuffled, in turn.

    What the receivers get of groups of adjacent numbers, so of one and of all, differs by one at
    most.

    >>> dealt(np.array([0, 0, 1, 1, 1]), 2, (0,)).tolist()
    [0, 1, 0, 1, 0]
    """
    receivers = np.empty(len(groups), dtype=np.int64)
    given = 0
    for group in np.unique(groups).tolist():
        rows = np.flatnonzero(groups == group)
        order = np.random.default_rng([*key, group + 1]).permutation(len(rows))
        receivers[rows[order]] = np.arange(given, given + len(rows)) % count
        given += len(rows)
    return receivers


def divide_classes(
    class_names: Sequence[str], tasks: Tasks, seed: int, class_order: ClassOrder
) -> list[tuple[int, ...]]:
    """Return the classes of each task, in order of arrival.

    Raises:
        ConfigError: more tasks than classes, or an order or lists that are not a permutation of
            the classes.
    """
    count = len(class_names)
    if not isinstance(tasks, int | np.integer):
        listed = isinstance(tasks, Sequence) and not isinstance(tasks, str)
        if not listed or class_order is not None:
            got = "both lists of classes and class_order" if listed else repr(tasks)
            raise ConfigError(
                expected="tasks as a number (with or without class_order), or as lists of classes",
                got=got,
                remedy="Leave class_order out: the lists are the order.",
            )
        groups = [tuple(_label(c, class_names) for c in _listed(task)) for task in tasks]
        _check_permutation([c for group in groups for c in group], class_names)
        return groups
    if isinstance(tasks, bool) or not 1 <= tasks <= count:
        raise ConfigError(
            expected=f"tasks from 1 to {count}, the number of classes",
            got=repr(tasks),
            remedy="Every task needs at least one class of its own.",
        )
    order = np.random.default_rng(seed).permutation(count).tolist()
    if class_order is not None:
        order = [_label(c, class_names) for c in _listed(class_order)]
        _check_permutation(order, class_names)
    # numpy.array_split: the first `count % tasks` tasks get one class more.
    return [tuple(part.tolist()) for part in np.array_split(np.array(order), int(tasks))]


def _listed(classes: Any) -> list[Any]:
    if isinstance(classes, np.ndarray):
        classes = classes.tolist()
    if not isinstance(classes, Sequence) or isinstance(classes, str) or not classes:
        raise ConfigError(
            expected="a list of classes",
            got=repr(classes),
            remedy="List labels or names, such as [0, 1].",
        )
    return list(classes)


def _label(value: Any, class_names: Sequence[str]) -> int:
    if isinstance(value, str) and value in class_names:
        return class_names.index(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise ConfigError(
        expected="classes as labels or as class names",
        got=repr(value),
        remedy=f"The classes are {', '.join(list(class_names)[:10])}, …",
    )


def _check_permutation(order: Sequence[int], class_names: Sequence[str]) -> None:
    if sorted(order) != list(range(len(class_names))):
        twice = sorted({c for c in order if order.count(c) > 1})
        missing = sorted(set(range(len(class_names))) - set(order))
        strange = sorted(set(order) - set(range(len(class_names))))
        raise ConfigError(
            expected=f"each of the {len(class_names)} classes exactly once",
            got=f"missing {missing[:10]}, twice {twice[:10]}, unknown {strange[:10]}",
            remedy="List every label from 0 to C-1 once.",
        )
