"""What streams of other libraries share on their way here: data of parts, joined and cut again."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cpool.errors import DataError
from cpool.streams import Stream, Task
from cpool.streams._source import Source, read_source
from cpool.streams.base import Scenario

__all__ = ["Part", "joined", "stacked"]

Part: TypeAlias = tuple[Any, npt.NDArray[np.int64]]
"""Inputs of a part, an array or a list, and their classes."""


def stacked(
    train: Sequence[Part],
    test: Sequence[Part],
    *,
    word: str,
    name: str,
    class_names: Sequence[str] | None = None,
    scenario: Scenario = "class",
) -> Stream:
    """Return a stream whose tasks are the parts, in their order.

    Where there is one part of test data, each task is tested on what it holds of its classes.
    Images of one size become bytes where all of them are what `ToTensor` makes of bytes, since
    processors resize bytes as they always do.

    Args:
        train: one part a task.
        test: likewise, or one.
        word: what a part is called, before its number.
        name: of the stream.
        class_names: one a class; its number by default.
        scenario: unless all tasks have the same classes, which is "domain".

    Raises:
        DataError: another number of test than of training parts, or what `read_source` refuses.
    """
    if len(test) not in (1, len(train)):
        raise DataError(
            expected=f"one test {word}, or one for each of {len(train)} training {word}s",
            got=f"{len(test)}",
            remedy="Split the test data as the training data are split.",
        )
    if len(test) != len(train):
        test = [_of_classes(*test[0], y) for _, y in train]
    sides = [(joined([x for x, _ in side]), _labels(side)) for side in (train, test)]
    x, x_test = _bytes_of_floats(sides[0][0], sides[1][0])
    source = read_source(x, sides[0][1], x_test, sides[1][1], class_names)
    tasks = _cut(source, [len(y) for _, y in train], [len(y) for _, y in test], word)
    alike = len(tasks) > 1 and len({task.classes for task in tasks}) == 1
    return Stream(
        tasks,
        name=name,
        scenario="domain" if alike else scenario,
        modality=source.modality,
        seed=0,
        class_names=source.class_names,
        class_order=list(dict.fromkeys(c for task in tasks for c in task.classes)),
        fingerprint=source.fingerprint,
    )


def joined(parts: Sequence[Any]) -> Any:
    """Return arrays of one shape a row as one array, anything else as one list."""
    alike = all(isinstance(x, np.ndarray) for x in parts) and len({x.shape[1:] for x in parts}) == 1
    return np.concatenate(parts) if alike else [item for part in parts for item in part]


def _labels(side: Sequence[Part]) -> npt.NDArray[np.int64]:
    return np.concatenate([y for _, y in side])


def _of_classes(x: Any, y: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> Part:
    rows = np.flatnonzero(np.isin(y, wanted))
    return [x[i] for i in rows] if isinstance(x, list) else x[rows], y[rows]


def _bytes_of_floats(*parts: Any) -> list[Any]:
    for x in parts:
        image = isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.ndim in (3, 4)
        if not image or x.min() < 0 or x.max() > 1:
            return list(parts)
        if not np.allclose(x * 255, (x * 255).round(), atol=1e-3):
            return list(parts)
    return [(x * 255).round().astype(np.uint8) for x in parts]


def _cut(source: Source, train: Sequence[int], test: Sequence[int], word: str) -> list[Task]:
    """Return the tasks of a source that holds them one after the other."""
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
