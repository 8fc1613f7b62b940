"""Streams of scikit-learn's handwritten digits: 1,437 training and 360 test images of 8 x 8."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from cpool.errors import ConfigError
from cpool.streams._checks import check_seed
from cpool.streams._source import Source, read_source, subset
from cpool.streams._splits import ClassOrder, Tasks
from cpool.streams._transforms import permute, rotate
from cpool.streams.base import Stream
from cpool.streams.domains import domain_incremental
from cpool.streams.scenarios import by_class

__all__ = ["digits", "permuted_digits", "rotated_digits", "split_digits"]


@functools.cache
def digits() -> Source:
    """Return the images, uint8 [n 8 8], divided once and for all."""
    # The bunch and the split are fixed: seeds move classes and validation, never the test set.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    x, x_test, y, y_test = train_test_split(
        images, bunch.target, test_size=360, random_state=0, stratify=bunch.target
    )
    return read_source(x, y, x_test, y_test)


def split_digits(
    *,
    tasks: Tasks = 5,
    seed: int = 0,
    validation: float | int = 0.1,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    class_order: ClassOrder = None,
    scenario: Literal["class", "task"] = "class",
) -> Stream:
    """Build Split Digits: ten classes in `tasks` tasks; images uint8 [n 8 8].

    Arguments and errors are those of `split_fashion_mnist`; the data comes with scikit-learn, with
    values 0..16 scaled to 0..255.

    >>> stream = split_digits(tasks=5, seed=0, validation=0)
    >>> sum(len(task.train) for task in stream), sum(len(task.test) for task in stream)
    (1437, 360)

    Reference: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    return by_class(
        digits(),
        tasks=tasks,
        seed=seed,
        validation=validation,
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        subset_seed=subset_seed,
        class_order=class_order,
        scenario=scenario,
        name="split_digits",
    )


def rotated_digits(
    *,
    tasks: int = 5,
    seed: int = 0,
    validation: float | int = 0.1,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    max_angle: float | int = 180.0,
    angles: Sequence[float | int] | None = None,
    shuffle: bool = False,
) -> Stream:
    """Build a domain-incremental stream: the same ten digits, turned further in every domain.

    Args:
        tasks: number of domains; domain k is turned by k · max_angle / tasks degrees.
        seed: as in `domain_incremental`.
        validation: as in `domain_incremental`.
        train_per_class: how many training examples of each class to keep; all by default.
        test_per_class: how many test examples of each class to keep; all by default.
        subset_seed: draws the kept examples; apart from `seed`, so that every seed sees the same.
        max_angle: degrees, counter-clockwise; not reached itself.
        angles: the angle of each domain, instead of `tasks` and `max_angle`.
        shuffle: let the seed decide the order of domains.

    Raises:
        ConfigError: no domain, or an angle that is not finite.

    >>> [task.name for task in rotated_digits(tasks=3)]
    ['rotated 0', 'rotated 60', 'rotated 120']
    """
    if angles is None:
        _check_angles([max_angle])
        angles = [k * max_angle / tasks for k in range(_domains(tasks))]
    _check_angles(angles)
    data = subset(digits(), train_per_class, test_per_class, subset_seed)
    domains = [
        (rotate(data.train.x, a), data.train.y, rotate(data.test.x, a), data.test.y) for a in angles
    ]
    return domain_incremental(
        domains,
        seed=seed,
        names=[f"rotated {angle:g}" for angle in angles],
        validation=validation,
        shuffle=shuffle,
        name="rotated_digits",
    )


def permuted_digits(
    *,
    tasks: int = 5,
    seed: int = 0,
    validation: float | int = 0.1,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    permutation_seed: int = 0,
    shuffle: bool = False,
) -> Stream:
    """Build a domain-incremental stream: the pixels change places, differently in every domain.

    Args:
        tasks: number of domains; the first keeps the pixels where they are.
        seed: as in `domain_incremental`.
        validation: as in `domain_incremental`.
        train_per_class: how many training examples of each class to keep; all by default.
        test_per_class: how many test examples of each class to keep; all by default.
        subset_seed: draws the kept examples; apart from `seed`, so that every seed sees the same.
        permutation_seed: decides the permutations; apart from `seed`, so that every seed sees
            the same inputs.
        shuffle: let the seed decide the order of domains.

    Raises:
        ConfigError: no domain.

    >>> stream = permuted_digits(tasks=2)
    >>> stream[1].train.x.shape[1:], stream[0].classes == stream[1].classes
    ((8, 8), True)
    """
    data, domains = subset(digits(), train_per_class, test_per_class, subset_seed), []
    permutation_seed = check_seed(permutation_seed, "permutation_seed")
    for k in range(_domains(tasks)):
        order = np.random.default_rng([permutation_seed, k]).permutation(64) if k else np.arange(64)
        x, x_test = (permute(examples.x, order) for examples in (data.train, data.test))
        domains.append((x, data.train.y, x_test, data.test.y))
    return domain_incremental(
        domains,
        seed=seed,
        names=[f"permuted {k}" if k else "unpermuted" for k in range(tasks)],
        validation=validation,
        shuffle=shuffle,
        name="permuted_digits",
    )


def _domains(tasks: Any) -> int:
    if isinstance(tasks, bool) or not isinstance(tasks, int) or tasks < 1:
        raise ConfigError(
            expected="tasks, the number of domains, as a whole number from 1",
            got=repr(tasks),
            remedy="Use tasks=5.",
        )
    return tasks


def _check_angles(angles: Any) -> None:
    numbers = isinstance(angles, Sequence) and all(
        isinstance(a, float | int) and not isinstance(a, bool) and np.isfinite(a) for a in angles
    )
    if not numbers or not angles or len({f"{a:g}" for a in angles}) != len(angles):
        raise ConfigError(
            expected="finite angles in degrees, one a domain, no two alike",
            got=repr(angles),
            remedy="Use max_angle=180 or angles=[0, 45, 90].",
        )
