"""Streams of cpool as benchmarks of Avalanche, and the other way round."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensors
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.data import DataLoader

from cpool.errors import DataError
from cpool.interop._stacked import Part, joined, stacked
from cpool.interop.avalanche.inputs import check_rows, encoded, raw_inputs
from cpool.streams import Examples, Stream

__all__ = ["as_benchmark", "as_stream"]


def as_benchmark(stream: Stream) -> Any:
    """Return a benchmark with the streams "train", "test", and "valid" where there is such data.

    An experience a task, in order. Inputs are raw tensors that `AvalancheModel(inputs="raw")`
    reads: images uint8 or float [H W] or [H W 3], texts as bytes. Task labels are the tasks'
    numbers in a task-incremental stream and 0 in others, where Avalanche's loops do not see them.

    Args:
        stream: of images of one size, or of texts.

    Raises:
        DataError: inputs that are no one tensor.
    """
    told = stream.scenario == "task"
    splits = [part for task in stream for part in (task.train, task.test, task.validation)]
    width = max(_bytes(part.x) for part in splits)  # one for all, since strategies mix tasks
    parts: dict[str, list[Any]] = {"train": [], "test": [], "valid": []}
    for task in stream:
        for name, part in zip(parts, (task.train, task.test, task.validation), strict=True):
            if len(part):
                parts[name].append(_dataset(part, task.index if told else 0, width))
    kept = {name: sets for name, sets in parts.items() if len(sets) == len(stream)}
    made = with_classes_timeline(benchmark_from_datasets(**kept))
    return with_task_labels(made) if told else made


def _dataset(part: Examples, label: int, width: int) -> Any:
    y = torch.from_numpy(part.y.copy())
    return tensors(_tensor(part.x, width), y, task_labels=[label] * len(y), targets=part.y.tolist())


def _bytes(x: Any) -> int:
    """Return how many bytes the longest text has; 1 for anything else."""
    if isinstance(x, np.ndarray) or not len(x) or not isinstance(x[0], str):
        return 1
    return encoded(list(x)).shape[1]


def _tensor(x: Any, width: int) -> Shaped[Tensor, "n *shape"]:
    if isinstance(x, np.ndarray) and x.ndim in (3, 4):
        return torch.from_numpy(np.ascontiguousarray(x))
    if len(x) and isinstance(x[0], str):
        return encoded(list(x), width)
    raise DataError(
        expected="images of one size in one array, or texts",
        got=f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__,
        remedy="Bring images to one size before; features have no place in Avalanche's models.",
    )


def as_stream(
    benchmark: Any, *, name: str = "avalanche", class_names: Sequence[str] | None = None
) -> Stream:
    """Return a benchmark's "train" and "test" streams as one of cpool.

    The scenario is "domain" where all experiences have the same classes, "task" where each has a
    task label of its own, else "class". Where all test data are one experience (`ni_benchmark`), a
    task has those of its classes. Data are read once, with the transforms of the evaluation.

    Args:
        benchmark: images as tensors, or as `as_benchmark` makes them; classes 0 to C − 1.
        name: of the stream.
        class_names: one a class; its number by default.

    Raises:
        DataError: another number of test than of training experiences, classes that leave numbers
            out, or inputs that are neither images nor texts.
    """
    train = list(benchmark.train_stream)
    labels = {tuple(_task_labels(one.dataset)) for one in train}
    return stacked(
        [_read(one.dataset) for one in train],
        [_read(one.dataset) for one in benchmark.test_stream],
        word="experience",
        name=name,
        class_names=class_names,
        scenario="task" if len(train) > 1 and len(labels) == len(train) else "class",
    )


def _read(data: Any) -> Part:
    check_rows(data)
    inputs, targets = [], []
    for x, y, *_ in DataLoader(data.eval(), batch_size=256):
        inputs.append(raw_inputs(x))
        targets.append(y.numpy())
    return joined(inputs), np.concatenate(targets).astype(np.int64)


def _task_labels(data: Any) -> list[int]:
    labels = getattr(data, "targets_task_labels", None)
    return [0] if labels is None else sorted(int(t) for t in labels.uniques)
