"""CLINC150: queries to an assistant, 150 intents in ten domains."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from cpool.errors import ConfigError, DataError
from cpool.streams._checks import check_seed
from cpool.streams._labels import class_ids
from cpool.streams._locate import DataSet, locate
from cpool.streams._source import Source, fingerprint, read_source
from cpool.streams._splits import ClassOrder, Tasks
from cpool.streams._tables import read_json
from cpool.streams.base import Stream
from cpool.streams.scenarios import by_class

__all__ = ["CLINC150", "clinc150", "clinc150_out_of_scope", "clinc_source"]

CLINC150 = DataSet(
    title="CLINC150",
    folder="CLINC150",
    files=("data_full.json", "domains.json"),
    origin="clinc/oos-eval on GitHub or the UCI repository (CLINC150)",
)


def clinc150(
    *,
    tasks: Tasks | None = None,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    by: Literal["domain", "random"] = "domain",
    labels: Literal["intent", "domain"] = "intent",
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    class_order: ClassOrder = None,
    scenario: Literal["class", "task"] = "class",
) -> Stream:
    """Build CLINC150: 150 intents, 100 training and 30 test queries each, class-incremental.

    The data set's own validation queries and its out-of-scope queries are not used: validation
    comes out of the training queries, as in every stream. See `clinc150_out_of_scope`.

    Args:
        tasks: with `by="domain"` nothing, or 10; with `by="random"` as in `class_incremental`,
            by default 15.
        seed: shuffles the domains or the classes, and draws the validation split.
        validation: as in `class_incremental`.
        data: folder that holds `CLINC150/`; by default the environment's CPOOL_DATA.
        by: "domain" for one task of 15 intents a domain, "random" for tasks of mixed domains.
        labels: "intent" for 150 classes, "domain" for the ten domains as classes; then `tasks` are
            as in `class_incremental`, by default 5, and `by` says nothing.
        train_per_class: how many training queries of each class to keep; all by default.
        test_per_class: how many test queries of each class to keep; all by default.
        subset_seed: draws the kept queries; apart from `seed`, so that every seed sees the same.
        class_order: the classes in order of arrival, with `by="random"` or `labels="domain"`.
        scenario: as in `class_incremental`.

    Raises:
        DataError: the files are missing or damaged.
        ConfigError: an option that does not fit.

    Reference: S. Larson et al., An Evaluation Dataset for Intent Classification and Out-of-Scope
    Prediction, EMNLP-IJCNLP 2019 (CC BY 3.0).
    """
    source, domains = clinc_source(data)
    task_names: list[str] | None = None
    if labels == "domain":
        source = _domains(source, domains)
        tasks = 5 if tasks is None else tasks
    elif labels != "intent":
        raise ConfigError(
            expected='labels "intent" or "domain"', got=repr(labels), remedy="Choose one."
        )
    elif by == "domain":
        task_names, tasks = _by_domain(domains, tasks, seed, class_order)
    elif by != "random":
        raise ConfigError(expected='by "domain" or "random"', got=repr(by), remedy="Choose one.")
    return by_class(
        source,
        tasks=15 if tasks is None else tasks,
        seed=seed,
        validation=validation,
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        subset_seed=subset_seed,
        class_order=class_order,
        task_names=task_names,
        scenario=scenario,
        name="clinc150",
    )


def clinc_source(data: str | os.PathLike[str] | None) -> tuple[Source, dict[str, list[str]]]:
    """Return all queries that have an intent, and the intents of each domain."""
    paths = locate(CLINC150, data)
    queries, domains = read_json(paths[0], dict), read_json(paths[1], dict)
    if not all(isinstance(intents, list) and intents for intents in domains.values()):
        got, remedy = "something else", f"Get domains.json again from {CLINC150.origin}."
        raise DataError(expected="a list of intents for each domain", got=got, remedy=remedy)
    names = sorted(intent for intents in domains.values() for intent in intents)
    source = read_source(*_pairs(queries, "train", names), *_pairs(queries, "test", names), names)
    return source, domains


def _domains(source: Source, domains: dict[str, list[str]]) -> Source:
    """Return the same queries with their domains as classes."""
    names = sorted(domains)
    owner = {intent: i for i, name in enumerate(names) for intent in domains[name]}
    table = np.array([owner[intent] for intent in source.class_names])
    return replace(
        source,
        train=replace(source.train, y=table[source.train.y]),
        test=replace(source.test, y=table[source.test.y]),
        class_names=tuple(names),
        fingerprint=fingerprint(source.fingerprint, names, table),
    )


def _by_domain(
    domains: dict[str, list[str]], tasks: Any, seed: int, class_order: ClassOrder
) -> tuple[list[str], list[list[str]]]:
    if class_order is not None or tasks not in (None, len(domains)):
        raise ConfigError(
            expected=f"{len(domains)} tasks in a seeded order, one a domain",
            got=f"tasks={tasks!r}, class_order={'none' if class_order is None else 'given'}",
            remedy='Use by="random" for other numbers and orders.',
        )
    names = sorted(domains)
    order = np.random.default_rng(check_seed(seed)).permutation(len(names)).tolist()
    return [names[i] for i in order], [sorted(domains[names[i]]) for i in order]


def clinc150_out_of_scope(
    split: Literal["train", "val", "test"] = "test",
    *,
    data: str | os.PathLike[str] | None = None,
) -> list[str]:
    """Return CLINC150's queries that belong to none of the intents: 100, 100 or 1,000.

    Raises:
        DataError: the files are missing or damaged.
        ConfigError: an unknown split.
    """
    if split not in ("train", "val", "test"):
        raise ConfigError(
            expected='split "train", "val" or "test"', got=repr(split), remedy='Use "test".'
        )
    path = locate(CLINC150, data)[0]
    return [text for text, _ in _rows(read_json(path, dict), f"oos_{split}")]


def _pairs(queries: Any, split: str, names: Sequence[str]) -> tuple[list[str], Any]:
    rows = _rows(queries, split)
    return [text for text, _ in rows], class_ids([label for _, label in rows], names)


def _rows(queries: dict[str, Any], split: str) -> list[tuple[str, str]]:
    try:
        return [(text, label) for text, label in queries[split]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            expected=f"{split!r} as a list of [query, intent] in data_full.json",
            got=f"{type(error).__name__}: {error}",
            remedy=f"Get the file again from {CLINC150.origin}.",
        ) from error
