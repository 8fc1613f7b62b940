"""Few-shot class-incremental: a base session of many classes, then n-way k-shot sessions."""

import os
from typing import Any

import numpy as np

from cpool.errors import ConfigError, DataError
from cpool.streams._assemble import assemble
from cpool.streams._checks import check_flag, check_seed, check_validation, check_whole
from cpool.streams._given import keep_classes
from cpool.streams._opened import Request, open_source
from cpool.streams._source import Source
from cpool.streams._splits import held_out
from cpool.streams.base import Stream

__all__ = ["few_shot"]


def few_shot(
    of: Any,
    *,
    tasks: int | None = None,
    seed: int = 0,
    validation: float | int = 0.1,
    base_classes: int | None = None,
    ways: int = 5,
    shots: int = 5,
    allow_unused: bool = False,
    data: str | os.PathLike[str] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    options: dict[str, Any] | None = None,
) -> Stream:
    """Build a few-shot class-incremental stream (FSCIL).

    The base session has all training examples of its classes; each later session has `ways` new
    classes with exactly `shots` training examples each. Validation examples are held out of all
    examples of a class before the shots are drawn; test data is complete.

    Args:
        of: as in `blurry`.
        tasks: how many sessions, the base session included; by default what the classes give.
        seed: draws the order of classes, the shots and the validation split.
        validation: as in `blurry`.
        base_classes: classes of the base session; by default about six in ten, and what is left
            a multiple of `ways`.
        ways: classes of each later session.
        shots: training examples of each class in a later session.
        allow_unused: leave out the last classes of the order if no session takes them.
        data: as in `blurry`.
        train_per_class: as in `blurry`.
        test_per_class: as in `blurry`.
        subset_seed: as in `blurry`.
        options: as in `blurry`.

    Raises:
        ConfigError: an option that does not fit, or classes that no session takes.
        DataError: a class with fewer training examples than shots, or data that is missing.

    >>> stream = few_shot("split_digits", base_classes=4, ways=3, shots=5)
    >>> [len(task.classes) for task in stream], [len(task.train) for task in stream[1:]]
    ([4, 3, 3], [15, 15])

    Reference: X. Tao et al., Few-Shot Class-Incremental Learning, CVPR 2020.
    """
    request = Request(data, train_per_class, test_per_class, subset_seed, options)
    seed, fraction = check_seed(seed), check_validation(validation)
    ways, shots = check_whole(ways, "ways"), check_whole(shots, "shots")
    source, name = open_source(of, request, seed)
    count = len(source.class_names)
    base, sessions = _sessions(count, tasks, base_classes, ways)
    used = base + sessions * ways
    order = np.random.default_rng(seed).permutation(count)
    if used < count:
        if not check_flag(allow_unused, "allow_unused"):
            raise _unused(count, base, sessions, ways)
        source = keep_classes(source, sorted(order[:used].tolist()))
        order = np.argsort(np.argsort(order[:used]))
    groups = np.split(order, base + ways * np.arange(sessions))
    held = held_out(source.train.y, fraction, (seed, 0))
    rows = [np.flatnonzero(np.isin(source.train.y, groups[0]) & ~held)]
    rows += [
        np.concatenate([_shots(source, held, label, shots, seed) for label in group.tolist()])
        for group in groups[1:]
    ]
    return assemble(
        source,
        [group.tolist() for group in groups],
        rows,
        held,
        name=f"{name}_few_shot",
        seed=seed,
        task_names=["base", *(f"session {i}" for i in range(1, sessions + 1))],
        arrangement={"name": "few_shot", "base_classes": base, "ways": ways, "shots": shots},
    )


def _sessions(count: int, tasks: int | None, base: int | None, ways: int) -> tuple[int, int]:
    """Return the number of base classes and of later sessions."""
    if tasks is None and base is None:
        sessions = max(1, int(0.4 * count) // ways)
    elif tasks is None:
        sessions = (count - check_whole(base, "base_classes")) // ways
    else:
        sessions = check_whole(tasks, "tasks", 2) - 1
    base = count - sessions * ways if base is None else check_whole(base, "base_classes")
    if sessions < 1 or base < 1 or base + sessions * ways > count:
        raise ConfigError(
            expected=f"a base session and at least one of {ways} classes, {count} in all",
            got=f"{base} base classes and {sessions} sessions",
            remedy="Choose fewer base classes, ways or tasks.",
        )
    return base, sessions


def _unused(count: int, base: int, sessions: int, ways: int) -> ConfigError:
    left = count - base - sessions * ways
    return ConfigError(
        expected=f"each of the {count} classes in a session",
        got=f"{base} + {sessions} x {ways}, which leaves {left} in no task",
        remedy=f"Use base_classes={base + left}, or allow_unused=true to do without them.",
    )


def _shots(source: Source, held: Any, label: int, shots: int, seed: int) -> Any:
    rows = np.flatnonzero((source.train.y == label) & ~held)
    if len(rows) < shots:
        raise DataError(
            expected=f"{shots} training examples of each class beside the validation examples",
            got=f"{len(rows)} of class {source.class_names[label]!r}",
            remedy="Use fewer shots or a smaller validation fraction.",
        )
    # A generator a class: the shots of a class depend on no order of classes.
    return np.random.default_rng([seed, 5, label + 1]).permutation(rows)[:shots]
