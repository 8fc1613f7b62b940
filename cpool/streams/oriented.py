"""Domains of turned and inverted images, with the same or with conflicting labels."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from cpool.errors import ConfigError
from cpool.streams._checks import check_flag, check_seed, check_whole
from cpool.streams._source import Source, subset
from cpool.streams.base import Stream
from cpool.streams.digits import digits
from cpool.streams.domains import domain_incremental
from cpool.streams.images import fashion_source

__all__ = ["rotated_inverted_digits", "rotated_inverted_fashion"]

_DOMAINS = (
    ("upright", 0, False),
    ("rotated 90", 1, False),
    ("inverted", 0, True),
    ("rotated 90, inverted", 1, True),
    ("rotated 180", 2, False),
    ("rotated 270", 3, False),
    ("rotated 180, inverted", 2, True),
    ("rotated 270, inverted", 3, True),
)


def rotated_inverted_digits(
    *,
    tasks: int = 4,
    seed: int = 0,
    validation: float | int = 0.1,
    permute_labels: bool = False,
    permutation_seed: int = 0,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    shuffle: bool = False,
) -> Stream:
    """Build a domain-incremental stream of digits that are turned by quarters and inverted.

    The domains are upright, rotated 90, inverted (dark on light), rotated 90 and inverted, then
    rotated 180, rotated 270 and these inverted. They are conflicting in looks; with
    `permute_labels` also in labels: no domain gives a class the label that it has in the first,
    so that what an image looks like decides what its label means.

    Args:
        tasks: number of domains, at most 8.
        seed: as in `domain_incremental`.
        validation: as in `domain_incremental`.
        permute_labels: give the classes other labels in every domain but the first.
        permutation_seed: draws the labels; apart from `seed`, so that every seed sees the same.
        train_per_class: how many training examples of each class to keep; all by default.
        test_per_class: how many test examples of each class to keep; all by default.
        subset_seed: draws the kept examples; apart from `seed`, so that every seed sees the same.
        shuffle: let the seed decide the order of domains.

    Raises:
        ConfigError: an option that does not fit.

    >>> stream = rotated_inverted_digits(tasks=3, permute_labels=True)
    >>> [task.name for task in stream], stream.class_names[:2]
    (['upright', 'rotated 90', 'inverted'], ('label 0', 'label 1'))
    """
    source = subset(digits(), train_per_class, test_per_class, subset_seed)
    return _oriented(
        source,
        tasks,
        permute_labels,
        permutation_seed,
        seed=seed,
        validation=validation,
        shuffle=shuffle,
        name="rotated_inverted_digits",
    )


def rotated_inverted_fashion(
    *,
    tasks: int = 4,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    permute_labels: bool = False,
    permutation_seed: int = 0,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    shuffle: bool = False,
) -> Stream:
    """Build the stream of `rotated_inverted_digits` of Fashion-MNIST.

    Arguments and errors are those of `rotated_inverted_digits`; `data` holds `fashion-mnist/`.
    """
    source = subset(fashion_source(data), train_per_class, test_per_class, subset_seed)
    return _oriented(
        source,
        tasks,
        permute_labels,
        permutation_seed,
        seed=seed,
        validation=validation,
        shuffle=shuffle,
        name="rotated_inverted_fashion",
    )


def _oriented(
    source: Source, tasks: Any, permute_labels: Any, permutation_seed: Any, **options: Any
) -> Stream:
    if check_whole(tasks, "tasks") > len(_DOMAINS):
        got, remedy = str(tasks), "There are four turns, upright and inverted."
        raise ConfigError(expected="tasks from 1 to 8", got=got, remedy=remedy)
    permute, key = check_flag(permute_labels, "permute_labels"), check_seed(permutation_seed)
    count = len(source.class_names)
    domains, labels = [], []
    for index, (_, turns, inverted) in enumerate(_DOMAINS[:tasks]):
        new = _labels(count, [key, 11, index + 1]) if permute and index else np.arange(count)
        parts = (source.train, source.test)
        x, x_test = (_turned(part.x, turns, inverted) for part in parts)
        domains.append((x, new[source.train.y], x_test, new[source.test.y]))
        labels.append(new.tolist())
    return domain_incremental(
        domains,
        names=[name for name, _, _ in _DOMAINS[:tasks]],
        class_names=[f"label {i}" for i in range(count)] if permute else source.class_names,
        arrangement={"name": "permuted labels", "labels": labels} if permute else None,
        **options,
    )


def _turned(images: Any, turns: int, inverted: bool) -> npt.NDArray[np.uint8]:
    turned = np.rot90(images, turns, axes=(1, 2))
    return np.ascontiguousarray(255 - turned if inverted else turned)


def _labels(count: int, key: list[int]) -> npt.NDArray[np.int64]:
    """Draw a permutation that leaves nothing in its place; about every third one does."""
    rng = np.random.default_rng(key)
    while True:
        order = rng.permutation(count)
        if (order != np.arange(count)).all():
            return order
