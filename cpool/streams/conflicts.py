"""Domains whose labels mean different things: intents of three data sets under the same labels."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cpool.errors import ConfigError
from cpool.streams._checks import check_seed, check_whole
from cpool.streams._given import keep_classes
from cpool.streams._source import Source, subset
from cpool.streams.base import Stream
from cpool.streams.clinc import clinc_source
from cpool.streams.domains import domain_incremental
from cpool.streams.snips import snips_source
from cpool.streams.text import banking_source

__all__ = ["conflicting_intents"]


def conflicting_intents(
    *,
    tasks: int = 3,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    classes: int = 7,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    shuffle: bool = False,
) -> Stream:
    """Build a domain-incremental stream of intents with conflicting labels.

    Each domain has `classes` intents, under the labels 0 to k-1: label 2 is one intent in SNIPS,
    another in BANKING77, a third in CLINC150. Nothing but the query says at test which is meant,
    so a model has to tell the domains apart to be right. Domains are SNIPS, BANKING77, CLINC150,
    then further intents of BANKING77 and CLINC150 in turn.

    Args:
        tasks: how many domains; 33 is the most with seven classes.
        seed: as in `domain_incremental`.
        validation: as in `domain_incremental`.
        data: folder that holds `SNIPS/`, `BANKING77/` and `CLINC150/`; by default the
            environment's CPOOL_DATA.
        classes: intents a domain, from 2 to 7, the intents of SNIPS.
        train_per_class: how many training queries of each intent to keep; all by default.
        test_per_class: how many test queries of each intent to keep; all by default.
        subset_seed: draws the intents and the kept queries; apart from `seed`, so that every seed
            sees the same.
        shuffle: let the seed decide the order of domains.

    Raises:
        DataError: files are missing or damaged.
        ConfigError: an option that does not fit.
    """
    if check_whole(classes, "classes", 2) > 7:
        got, remedy = str(classes), "SNIPS has seven intents."
        raise ConfigError(expected="classes from 2 to 7", got=got, remedy=remedy)
    tasks, subset_seed = check_whole(tasks, "tasks"), check_seed(subset_seed, "subset_seed")
    sets = (
        ("SNIPS", snips_source(data)),
        ("BANKING77", banking_source(data)),
        ("CLINC150", clinc_source(data)[0]),
    )
    chosen = _in_turn([_groups(s, classes, subset_seed, i) for i, (_, s) in enumerate(sets)])
    if tasks > len(chosen):
        raise ConfigError(
            expected=f"tasks from 1 to {len(chosen)}, with {classes} intents a domain",
            got=str(tasks),
            remedy="Use fewer domains or fewer classes.",
        )
    domains, names = [], []
    meanings: dict[str, list[str]] = {}
    for which, number, labels in chosen[:tasks]:
        title, source = sets[which]
        part = subset(keep_classes(source, labels), train_per_class, test_per_class, subset_seed)
        domains.append((part.train.x, part.train.y, part.test.x, part.test.y))
        names.append(title if number == 0 else f"{title} {number}")
        meanings[names[-1]] = list(part.class_names)
    return domain_incremental(
        domains,
        seed=seed,
        names=names,
        class_names=[f"label {i}" for i in range(classes)],
        validation=validation,
        shuffle=shuffle,
        name="conflicting_intents",
        arrangement={"name": "conflicting_intents", "meanings": meanings},
    )


def _groups(source: Source, size: int, seed: int, which: int) -> list[list[int]]:
    """Divide the classes into groups of `size`, in a drawn order; what remains is left out."""
    order = np.random.default_rng([seed, 10, which + 1]).permutation(len(source.class_names))
    return [order[i : i + size].tolist() for i in range(0, len(order) - size + 1, size)]


def _in_turn(groups: Sequence[list[list[int]]]) -> list[tuple[int, int, Any]]:
    """Return (set, number, classes): the first group of every set, then the second, …."""
    longest = max(len(some) for some in groups)
    return [
        (which, number, some[number])
        for number in range(longest)
        for which, some in enumerate(groups)
        if number < len(some)
    ]
