"""Online streams: a single pass over the data, in small experiences."""

import itertools
import os
from typing import Any

from cpool.streams._checks import check_seed, check_whole
from cpool.streams._chunks import Chunk, chunked, shuffled_rows
from cpool.streams._opened import Request, open_stream
from cpool.streams._splits import Tasks
from cpool.streams.base import Stream

__all__ = ["online"]


def online(
    of: Any,
    *,
    tasks: Tasks | None = None,
    seed: int = 0,
    validation: float | int = 0.1,
    samples: int = 50,
    data: str | os.PathLike[str] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    options: dict[str, Any] | None = None,
) -> Stream:
    """Cut the tasks of a stream into experiences of `samples` training examples, each seen once.

    No experience crosses a border between tasks; the last one of a task also takes what remains.
    Test and validation examples are dealt out over the experiences that train on their class and
    task, so that together they have each of them once. Train with one epoch for a single pass.

    Args:
        of: a registered stream, an arrangement too, or what `blurry` takes.
        tasks: of the stream below, by default its own number.
        seed: of the stream below; also draws the order of examples and who tests what.
        validation: of the stream below.
        samples: training examples an experience.
        data: as in `blurry`.
        train_per_class: as in `blurry`.
        test_per_class: as in `blurry`.
        subset_seed: as in `blurry`.
        options: further options of the stream below.

    Raises:
        ConfigError: an option that does not fit, or fewer test examples than experiences.
        DataError: the data is missing or of a wrong kind.

    >>> stream = online("split_digits", tasks=2, samples=100)
    >>> [len(task.train) for task in stream], stream.arrangement["boundaries"]
    ([100, 100, 100, 100, 100, 148, 100, 100, 100, 100, 100, 144], [[6, 6]])
    """
    request = Request(data, train_per_class, test_per_class, subset_seed, options)
    seed, samples = check_seed(seed), check_whole(samples, "samples")
    stream = open_stream(of, request, seed=seed, validation=validation, tasks=tasks)
    chunks: list[Chunk] = []
    boundaries = []
    for task, rows in zip(stream, shuffled_rows(stream, seed), strict=True):
        if chunks:
            boundaries.append([len(chunks), len(chunks)])
        number = max(1, len(rows) // samples)
        cuts = [k * samples for k in range(number)] + [len(rows)]
        for low, high in itertools.pairwise(cuts):
            chunks.append(Chunk(f"{len(chunks)}: {task.name}", [(task.index, rows[low:high])]))
    arrangement = {
        "name": "online",
        "samples": samples,
        "boundaries": boundaries,
        "of": stream.arrangement,
    }
    name = f"{stream.name}_online"
    return chunked(stream, chunks, name=name, seed=seed, arrangement=arrangement)
