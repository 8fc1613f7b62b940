"""A stream cut into many small experiences; each test example is dealt to one of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cpool.errors import ConfigError
from cpool.streams.base import Examples, Stream, Task

__all__ = ["Chunk", "chunked", "shuffled_rows"]

Rows = npt.NDArray[np.int64]


class Chunk(NamedTuple):
    """One experience: a name, and training rows of some tasks, as (task, rows) pairs."""

    name: str
    parts: Sequence[tuple[int, Rows]]


def shuffled_rows(stream: Stream, seed: int) -> list[Rows]:
    """Return the training rows of each task in a seeded order."""
    return [
        np.random.default_rng([seed, 7, task.index + 1]).permutation(len(task.train))
        for task in stream
    ]


def chunked(
    stream: Stream, chunks: Sequence[Chunk], *, name: str, seed: int, arrangement: Mapping[str, Any]
) -> Stream:
    """Return a stream of experiences; test and validation examples are dealt out evenly.

    An example goes to one of the experiences that train on its class and task, the one that has
    fewest so far, so that together they have each example once.

    Raises:
        ConfigError: fewer test examples than experiences.
    """
    trains = [
        Examples.concat([stream[task].train.take(rows) for task, rows in chunk.parts])
        for chunk in chunks
    ]
    splits = {what: _deal(stream, chunks, what, seed) for what in ("test", "validation")}
    starved = sum(1 for part in splits["test"] if not len(part))
    if starved:
        raise ConfigError(
            expected=f"at least one test example for each of {len(chunks)} experiences",
            got=f"none for {starved} of them",
            remedy="Use more samples an experience.",
        )
    made, arrived = [], dict[int, None]()
    for index, chunk in enumerate(chunks):
        present = set(np.unique(trains[index].y).tolist())
        if stream.scenario == "domain":  # where all classes are known from the start
            present = set(stream.class_order)
        known = [c for task, _ in chunk.parts for c in stream[task].classes]
        arrived.update(dict.fromkeys(c for c in known if c in present))
        classes = tuple(c for c in arrived if c in present)
        test, validation = splits["test"][index], splits["validation"][index]
        made.append(Task(index, chunk.name, classes, trains[index], validation, test))
    return stream.replaced(
        made, name=name, seed=seed, class_order=list(arrived), arrangement=arrangement
    )


def _deal(stream: Stream, chunks: Sequence[Chunk], what: str, seed: int) -> list[Examples]:
    """Return the test or validation examples of each chunk."""
    load = np.zeros(len(chunks), dtype=np.int64)
    dealt: list[list[Examples]] = [[] for _ in chunks]
    for task in stream:
        examples: Examples = getattr(task, what)
        where = np.full(len(examples), -1, dtype=np.int64)
        present = _present(task, chunks)
        order = np.random.default_rng([seed, 7, task.index + 1, 1]).permutation(len(examples))
        for row in order.tolist():
            able = present[int(examples.y[row])]
            where[row] = able[int(load[able].argmin())]
            load[where[row]] += 1
        for index in np.unique(where).tolist():
            dealt[index].append(examples.take(where == index))
    empty = stream[0].test.take(np.empty(0, np.int64))
    return [Examples.concat(parts) if parts else empty for parts in dealt]


def _present(task: Task, chunks: Sequence[Chunk]) -> dict[int, Rows]:
    """Return class → the chunks that train on examples of it from this task."""
    found: dict[int, list[int]] = {}
    for index, chunk in enumerate(chunks):
        labels = [task.train.y[rows] for number, rows in chunk.parts if number == task.index]
        for label in np.unique(np.concatenate(labels)).tolist() if labels else ():
            found.setdefault(label, []).append(index)
    return {label: np.array(where, dtype=np.int64) for label, where in found.items()}
