"""Long-tailed streams: few classes with many training examples, many with few."""

import os
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cpool.errors import ConfigError
from cpool.streams._assemble import assemble
from cpool.streams._checks import check_seed, check_validation
from cpool.streams._opened import Request, open_source
from cpool.streams._source import Source, fingerprint
from cpool.streams._splits import divide_classes, held_out
from cpool.streams.base import Stream

__all__ = ["long_tailed"]


def long_tailed(
    of: Any,
    *,
    tasks: int = 5,
    seed: int = 0,
    validation: float | int = 0.1,
    imbalance: float | int = 100.0,
    order: Literal["shuffled", "ordered"] = "shuffled",
    imbalance_seed: int = 0,
    data: str | os.PathLike[str] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    options: dict[str, Any] | None = None,
) -> Stream:
    r"""Build a long-tailed class-incremental stream.

    The class of rank $i = 0, \ldots, C - 1$ keeps

    $$n_i = n_0 \, \rho^{-i / (C - 1)}$$

    training examples, rounded, at least one, where $\rho$ is the imbalance; $n_0$ is the largest
    number for which every class has enough. Validation examples are held out before, so that they
    have the proportions of the data, like the test examples.

    Args:
        of: as in `blurry`.
        tasks: how many tasks.
        seed: shuffles the classes, and draws the validation split and the kept examples.
        validation: as in `blurry`.
        imbalance: how many times more examples the first class has than the last, from 1.
        order: "ordered" from the largest class to the smallest, "shuffled" by the seed.
        imbalance_seed: draws which class is how large; apart from `seed`, so that every seed has
            the same large classes.
        data: as in `blurry`.
        train_per_class: as in `blurry`; before the tail is cut.
        test_per_class: as in `blurry`.
        subset_seed: as in `blurry`.
        options: as in `blurry`.

    Raises:
        ConfigError: an option that does not fit.
        DataError: the data is missing or of a wrong kind.

    >>> stream = long_tailed("split_digits", imbalance=10, order="ordered")
    >>> [len(task.train) for task in stream]
    [232, 140, 83, 50, 30]

    Reference: X. Liu et al., Long-Tailed Class Incremental Learning, ECCV 2022.
    """
    request = Request(data, train_per_class, test_per_class, subset_seed, options)
    seed, fraction = check_seed(seed), check_validation(validation)
    _check(imbalance, order)
    source, name = open_source(of, request, seed)
    held = held_out(source.train.y, fraction, (seed, 0))
    count = len(source.class_names)
    drawn = np.random.default_rng([check_seed(imbalance_seed, "imbalance_seed"), 9])
    ranks = drawn.permutation(count)
    sizes = _sizes(np.bincount(source.train.y[~held], minlength=count), ranks, float(imbalance))
    kept = np.zeros(len(held), dtype=np.bool_)
    for label, size in enumerate(sizes.tolist()):
        mine = np.flatnonzero((source.train.y == label) & ~held)
        kept[np.random.default_rng([seed, 9, label + 1]).permutation(mine)[:size]] = True
    by_size = np.argsort(ranks) if order == "ordered" else None
    groups = divide_classes(source.class_names, tasks, seed, by_size)
    rows = [np.flatnonzero(np.isin(source.train.y, group) & kept) for group in groups]
    # Which examples are kept depends on the seed; what the data is like does not.
    digest = fingerprint(source.fingerprint, f"long tail {imbalance:g}", ranks)
    return assemble(
        Source(source.train, source.test, source.class_names, source.modality, digest),
        groups,
        rows,
        held,
        name=f"{name}_long_tailed",
        seed=seed,
        arrangement={
            "name": "long_tailed",
            "imbalance": float(imbalance),
            "order": order,
            "class_sizes": sizes.tolist(),
        },
    )


def _sizes(
    available: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64], imbalance: float
) -> npt.NDArray[np.int64]:
    """Return how many examples of each class to keep, [C]."""
    share = imbalance ** (-ranks / max(len(ranks) - 1, 1))
    most = float((available / share).min())
    return np.maximum(1, np.floor(most * share + 0.5)).astype(np.int64)


def _check(imbalance: Any, order: Any) -> None:
    number = isinstance(imbalance, int | float) and not isinstance(imbalance, bool)
    if not number or not 1.0 <= imbalance < float("inf"):
        raise ConfigError(
            expected="imbalance as a number from 1",
            got=repr(imbalance),
            remedy="100 gives the first class a hundred times the examples of the last.",
        )
    if order not in ("shuffled", "ordered"):
        raise ConfigError(
            expected='order "shuffled" or "ordered"', got=repr(order), remedy="Choose one."
        )
