"""What streams of other libraries share on their way here: joined data, cut into tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cpool.streams import Task
from cpool.streams._source import Source
from cpool.streams.base import Scenario

__all__ = ["bytes_of_floats", "cut", "scenario_of"]


def bytes_of_floats(*parts: Any) -> list[Any]:
    """Return images as bytes where all are what `ToTensor` makes of bytes; else as they are.

    Processors resize bytes as they always do.

    >>> bytes_of_floats(np.array([[[0.0, 1.0]]], np.float32))[0].tolist()
    [[[0, 255]]]
    """
    for x in parts:
        image = isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.ndim in (3, 4)
        if not image or x.min() < 0 or x.max() > 1:
            return list(parts)
        if not np.allclose(x * 255, (x * 255).round(), atol=1e-3):
            return list(parts)
    return [(x * 255).round().astype(np.uint8) for x in parts]


def cut(source: Source, train: Sequence[int], test: Sequence[int], word: str) -> list[Task]:
    """Return the tasks of a source that holds them one after the other.

    Args:
        source: of all tasks.
        train: how many training rows each task has.
        test: how many test rows.
        word: what a task is called, before its number.
    """
    tasks, ends = [], (np.cumsum([0, *train]), np.cumsum([0, *test]))
    empty = source.train.take(np.empty(0, dtype=np.int64))
    for index in range(len(train)):
        parts = [
            whole.take(np.arange(end[index], end[index + 1]))
            for whole, end in zip((source.train, source.test), ends, strict=True)
        ]
        classes = tuple(int(c) for c in np.unique(parts[0].y))
        tasks.append(Task(index, f"{word} {index}", classes, parts[0], empty, parts[1]))
    return tasks


def scenario_of(tasks: Sequence[Task]) -> Scenario:
    """Return "domain" where all tasks have the same classes, else "class"."""
    return "domain" if len(tasks) > 1 and len({task.classes for task in tasks}) == 1 else "class"
