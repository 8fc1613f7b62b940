"""Scenarios of Continuum as streams, and streams as scenarios of Continuum.

Continuum is imported with this module, and comes with the extra `continuum`.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cpool.errors import DataError, missing_extra

if importlib.util.find_spec("continuum") is None:
    raise missing_extra("continuum")

from continuum.datasets import InMemoryDataset
from continuum.scenarios import ClassIncremental, ContinualScenario
from continuum.tasks import TaskType

from cpool.interop._stacked import stacked
from cpool.streams import Examples, Stream
from cpool.streams.base import Scenario

__all__ = ["as_scenario", "as_stream"]

READ = (TaskType.IMAGE_ARRAY, TaskType.IMAGE_PATH, TaskType.H5, TaskType.TEXT, TaskType.TENSOR)


def as_stream(
    train: Any,
    test: Any,
    *,
    name: str = "continuum",
    class_names: Sequence[str] | None = None,
    scenario: Scenario | None = None,
) -> Stream:
    """Return two scenarios of Continuum, of training and of test data, as a stream.

    A task is a task set, as the scenario gives it: with its transformations, and with its numbers
    of classes (`ClassIncremental` numbers them in the order in which they come). Where the test
    scenario has one task, each task is tested on what it holds of its classes. Data are read once;
    images of one size become bytes where all of them are what `ToTensor` makes of bytes.

    Args:
        train: of `continuum.scenarios`: `ClassIncremental`, `InstanceIncremental`,
            `ContinualScenario`, `TransformationIncremental` and what is made of these; of images,
            texts (`TaskType.TEXT`) or vectors (`TaskType.TENSOR`).
        test: the same, with as many tasks or one.
        name: of the stream.
        class_names: one a class, in Continuum's numbers; its number by default.
        scenario: "domain" where all tasks have the same classes, else "class", when None; "task"
            where a model shall be told the task at test.

    Raises:
        DataError: no scenarios, another number of test than of training tasks, other kinds of
            data, or classes that leave numbers out.

    Example:
        >>> import numpy
        >>> from continuum.datasets import InMemoryDataset
        >>> from continuum.scenarios import ClassIncremental
        >>> x, y = numpy.zeros((8, 4, 4, 3), numpy.uint8), numpy.arange(8) % 4
        >>> parts = [InMemoryDataset(x, y, train=side) for side in (True, False)]
        >>> stream = as_stream(*(ClassIncremental(part, increment=2) for part in parts))
        >>> stream.scenario, [task.classes for task in stream]
        ('class', [(0, 1), (2, 3)])
    """
    sides = ((train, _tasks(train, "training")), (test, _tasks(test, "test")))
    parts = [[_read(one[index]) for index in range(size)] for one, size in sides]
    stream = stacked(*parts, word="task", name=name, class_names=class_names)
    return stream if scenario is None else stream.replaced(stream[:], scenario=scenario)


def as_scenario(stream: Stream) -> tuple[Any, Any]:
    """Return a stream as two scenarios of Continuum, of training and of test data.

    `ClassIncremental` where every task brings classes of its own, in the stream's order: it
    numbers them anew, and `scenario.class_order[number]` is the class of the stream. Else
    `ContinualScenario`, with the classes of the stream. Validation data are left out.

    Args:
        stream: of images as bytes, all of one size; of files of images; of texts or vectors.

    Raises:
        DataError: images of several sizes or in floating point, which Continuum cuts to bytes.

    Example:
        >>> import numpy
        >>> from cpool.streams import class_incremental
        >>> x, y = numpy.zeros((8, 4, 4, 3), numpy.uint8), numpy.arange(8) % 4
        >>> train, test = as_scenario(class_incremental(x, y, x, y, tasks=2, validation=0))
        >>> len(train), len(test[1])
        (2, 4)
    """
    order = [c for task in stream for c in task.classes]
    # Continuum counts the classes of each side, so that it has to meet all of them there.
    whole = all({*side.y.tolist()} == {*t.classes} for t in stream for side in (t.train, t.test))
    fresh = whole and len(order) == len(set(order))
    made = []
    for train in (True, False):
        splits = [task.train if train else task.test for task in stream]
        kinds = {_kind(part) for part in splits}
        arrays = [_array(part) for part in splits]
        if len(kinds) > 1 or len({x.shape[1:] for x in arrays}) > 1:
            raise DataError(
                expected="inputs of one kind and one size in all tasks",
                got=f"{', '.join(sorted(map(str, kinds)))} of {[x.shape[1:] for x in arrays]}",
                remedy="Bring images to one size before.",
            )
        x, y = np.concatenate(arrays), np.concatenate([part.y for part in splits])
        t = np.repeat(np.arange(len(stream)), [len(part) for part in splits])
        data = InMemoryDataset(x, y, t, data_type=kinds.pop(), train=train)
        if fresh:
            sizes = [len(task.classes) for task in stream]
            made.append(ClassIncremental(data, increment=sizes, class_order=order))
        else:
            made.append(ContinualScenario(data))
    return made[0], made[1]


def _tasks(scenario: Any, what: str) -> int:
    kind = getattr(getattr(scenario, "cl_dataset", None), "data_type", None)
    if kind not in READ:
        raise DataError(
            expected=f"a scenario of Continuum, of images, texts or vectors, as {what} data",
            got=type(scenario).__name__ if kind is None else f"one of {kind}",
            remedy="Make one, such as ClassIncremental(InMemoryDataset(x, y), increment=2).",
        )
    return len(scenario)


def _read(data: Any) -> tuple[Any, npt.NDArray[np.int64]]:
    """Return the inputs of a task set, transformed, and their classes."""
    rows = [data[index] for index in range(len(data))]
    if any(np.ndim(row[1]) for row in rows):
        raise DataError(
            expected="one class for each sample",
            got=f"labels of shape {np.shape(rows[0][1])}",
            remedy="Choose one of the labels, with target_trsf or in the data set.",
        )
    y = np.asarray([int(row[1]) for row in rows], dtype=np.int64)
    if data.data_type == TaskType.TEXT:
        return [_text(row[0]) for row in rows], y
    arrays = [np.asarray(row[0]) for row in rows]
    if arrays[0].ndim == 3:  # of ToTensor
        arrays = [np.moveaxis(one, 0, -1) for one in arrays]
        arrays = [one[..., 0] if one.shape[-1] == 1 else one for one in arrays]
    return (np.stack(arrays) if len({one.shape for one in arrays}) == 1 else arrays), y


def _text(x: Any) -> str:
    """Return a text; of pairs of texts, as MultiNLI has them, one after the other."""
    return x if isinstance(x, str) else " ".join(str(part) for part in np.atleast_1d(x))


def _kind(part: Examples) -> Any:
    x = part.x
    if isinstance(x, np.ndarray) and x.ndim == 2:
        return TaskType.TENSOR
    if isinstance(x, np.ndarray) and x.dtype == np.uint8:
        return TaskType.IMAGE_ARRAY
    if hasattr(x, "paths"):
        return TaskType.IMAGE_PATH
    if len(x) and isinstance(x[0], str):
        return TaskType.TEXT
    raise DataError(
        expected="images as bytes in one array, files of images, texts, or vectors",
        got=f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x[0]).__name__,
        remedy="Bring images to one size and to uint8 before.",
    )


def _array(part: Examples) -> npt.NDArray[Any]:
    if hasattr(part.x, "paths"):
        return np.asarray([str(path) for path in part.x.paths])
    return part.x if isinstance(part.x, np.ndarray) else np.asarray(list(part.x), dtype=object)
