"""Task-free streams with gradual drift: one task or domain slides into the next."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from cpool.errors import ConfigError
from cpool.streams._checks import check_seed, check_whole
from cpool.streams._chunks import Chunk, chunked, shuffled_rows
from cpool.streams._opened import Request, open_stream
from cpool.streams._splits import Tasks
from cpool.streams.base import Stream

__all__ = ["gradual_drift"]

Rows = npt.NDArray[np.int64]


def gradual_drift(
    of: Any,
    *,
    tasks: Tasks | None = None,
    seed: int = 0,
    validation: float | int = 0.1,
    samples: int = 50,
    transition: int = 4,
    data: str | os.PathLike[str] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    options: dict[str, Any] | None = None,
) -> Stream:
    r"""Cut a stream into small chunks, and let each task or domain slide into the next.

    Chunk $k = 0, \ldots, w - 1$ of a transition of $w$ chunks has a share $(k + 1/2) / w$ of the
    new task, rounded to examples. With `transition=0` the change is sudden. Each example occurs
    once; the last chunk before a transition also takes what remains.

    `arrangement["boundaries"]` lists `[start, end]` of each change: the first chunk with examples
    of the new task, and the first without any of the old one. A learner must not see it; it is
    there to judge one, see `cpool.drift.judge`.

    Args:
        of: a registered stream or what `blurry` takes; domain-incremental ones too.
        tasks: of the stream below, by default its own number.
        seed: of the stream below; also draws the order of examples and who tests what.
        validation: of the stream below.
        samples: training examples a chunk.
        transition: chunks a transition, from 0.
        data: as in `blurry`.
        train_per_class: as in `blurry`.
        test_per_class: as in `blurry`.
        subset_seed: as in `blurry`.
        options: further options of the stream below.

    Raises:
        ConfigError: an option that does not fit, or a task with too few examples for a chunk of
            its own beside its transitions.
        DataError: the data is missing or of a wrong kind.

    >>> stream = gradual_drift("rotated_digits", tasks=2, samples=100, transition=4)
    >>> len(stream), stream.arrangement["boundaries"], stream[11].name
    (24, [[10, 14]], '11: rotated 0 → rotated 90')
    """
    request = Request(data, train_per_class, test_per_class, subset_seed, options)
    seed, samples = check_seed(seed), check_whole(samples, "samples")
    width = check_whole(transition, "transition", 0)
    stream = open_stream(of, request, seed=seed, validation=validation, tasks=tasks)
    chunks, boundaries = _plan(stream, shuffled_rows(stream, seed), samples, width)
    arrangement = {
        "name": "gradual_drift",
        "samples": samples,
        "transition": width,
        "boundaries": boundaries,
        "of": stream.arrangement,
    }
    name = f"{stream.name}_gradual_drift"
    return chunked(stream, chunks, name=name, seed=seed, arrangement=arrangement)


def _plan(
    stream: Stream, rows: list[Rows], samples: int, width: int
) -> tuple[list[Chunk], list[list[int]]]:
    shares = _shares(samples, width)
    chunks: list[Chunk] = []
    boundaries: list[list[int]] = []
    for task, mine in zip(stream, rows, strict=True):
        last = task.index == len(stream) - 1
        used = 0 if task.index == 0 else sum(shares)
        free = len(mine) - used - (0 if last else sum(samples - new for new in shares))
        if free < samples:
            raise ConfigError(
                expected=f"at least {samples} examples of each task beside its transitions",
                got=f"{len(mine)} in {task.name!r}, {free} of them beside",
                remedy="Use fewer samples or a shorter transition.",
            )
        number = free // samples
        for k in range(number):
            low, high = used + k * samples, used + (free if k == number - 1 else (k + 1) * samples)
            chunks.append(Chunk(f"{len(chunks)}: {task.name}", [(task.index, mine[low:high])]))
        if last:
            break
        boundaries.append([len(chunks), len(chunks) + width])
        old, new = used + free, 0
        for share in shares:
            left, right = mine[old : old + samples - share], rows[task.index + 1][new : new + share]
            parts = [(task.index, left), (task.index + 1, right)]
            label = f"{len(chunks)}: {task.name} → {stream[task.index + 1].name}"
            chunks.append(Chunk(label, [part for part in parts if len(part[1])]))
            old, new = old + len(left), new + len(right)
    return chunks, boundaries


def _shares(samples: int, width: int) -> list[int]:
    """Return how many examples of the new task each chunk of a transition has."""
    return [int((k + 0.5) / width * samples + 0.5) for k in range(width)]
