"""From classes and rows of each task to a stream; what every arrangement of classes ends in."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cpool.errors import ConfigError
from cpool.streams._source import Source
from cpool.streams.base import Stream, Task

__all__ = ["assemble", "task_names_of"]

Rows = npt.NDArray[np.int64]


def assemble(
    source: Source,
    groups: Sequence[Sequence[int]],
    rows: Sequence[Rows],
    held: npt.NDArray[np.bool_],
    *,
    name: str,
    seed: int,
    scenario: Literal["class", "task"] = "class",
    task_names: Sequence[str] | None = None,
    arrangement: Mapping[str, Any] | None = None,
) -> Stream:
    """Make a stream of tasks that train on given rows, and test on the classes they bring.

    Validation and test data of a task are the held-out and the test examples of the classes that
    it brings: each of them belongs to one task, whatever else the task trains on.

    Args:
        source: checked data.
        groups: the classes that each task brings, every class in one task.
        rows: the training rows of each task, numbers of rows of `source.train`.
        held: mask [n] of the validation examples.
        name: what results call the stream.
        seed: what the stream was drawn with.
        scenario: "class" or "task".
        task_names: one name a task; by default made of the classes it brings.
        arrangement: as in `Stream`.
    """
    names = task_names_of(groups, source.class_names, task_names)
    order = [label for group in groups for label in group]
    made = []
    for index, (group, mine) in enumerate(zip(groups, rows, strict=True)):
        train = source.train.take(np.sort(mine))
        present = set(np.unique(train.y).tolist())
        brought = held & np.isin(source.train.y, group)
        made.append(
            Task(
                index=index,
                name=names[index],
                classes=(*group, *(c for c in order if c in present and c not in group)),
                train=train,
                validation=source.train.take(brought),
                test=source.test.take(np.isin(source.test.y, group)),
            )
        )
    return Stream(
        made,
        name=name,
        scenario=scenario,
        modality=source.modality,
        seed=seed,
        class_names=source.class_names,
        class_order=list(dict.fromkeys(c for task in made for c in task.classes)),
        fingerprint=source.fingerprint,
        arrangement=arrangement,
    )


def task_names_of(
    groups: Sequence[Sequence[int]], class_names: Sequence[str], given: Sequence[str] | None
) -> list[str]:
    """Return one name a task: those given, else made of the classes.

    Raises:
        ConfigError: not as many names as tasks.
    """
    if given is None:
        few = max(len(group) for group in groups) <= 3
        return [
            " + ".join(class_names[c] for c in group) if few else f"task {index}"
            for index, group in enumerate(groups)
        ]
    if isinstance(given, str) or len(given) != len(groups):
        raise ConfigError(
            expected=f"{len(groups)} task names, one a task",
            got=repr(given) if isinstance(given, str) else f"{len(given)} names",
            remedy="Name every task, or leave the names out.",
        )
    return list(given)
