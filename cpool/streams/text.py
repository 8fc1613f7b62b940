"""Streams of text sets that are read from files: CLINC150 and BANKING77."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cpool.errors import ConfigError, DataError
from cpool.streams._labels import class_ids
from cpool.streams._locate import DataSet, locate
from cpool.streams._source import read_source, subset
from cpool.streams._splits import ClassOrder, Tasks, check_seed
from cpool.streams._tables import read_table
from cpool.streams.base import Stream
from cpool.streams.scenarios import by_class

__all__ = ["BANKING77", "CLINC150", "banking77", "clinc150", "clinc150_out_of_scope"]

CLINC150 = DataSet(
    title="CLINC150",
    folder="CLINC150",
    files=("data_full.json", "domains.json"),
    origin="clinc/oos-eval on GitHub or the UCI repository (CLINC150)",
)
BANKING77 = DataSet(
    title="BANKING77",
    folder="BANKING77",
    files=("train.csv", "test.csv", "categories.json"),
    origin="PolyAI-LDN/task-specific-datasets on GitHub (banking_data)",
)


def clinc150(
    *,
    tasks: Tasks | None = None,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    by: Literal["domain", "random"] = "domain",
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
        train_per_class: how many training queries of each intent to keep; all by default.
        test_per_class: how many test queries of each intent to keep; all by default.
        subset_seed: draws the kept queries; apart from `seed`, so that every seed sees the same.
        class_order: with `by="random"`, the intents in order of arrival.
        scenario: as in `class_incremental`.

    Raises:
        DataError: the files are missing or damaged.
        ConfigError: an option that does not fit.

    Reference: S. Larson et al., An Evaluation Dataset for Intent Classification and Out-of-Scope
    Prediction, EMNLP-IJCNLP 2019 (CC BY 3.0).
    """
    paths = locate(CLINC150, data)
    queries, domains = _read_json(paths[0], dict), _read_json(paths[1], dict)
    names = sorted(intent for intents in domains.values() for intent in intents)
    source = read_source(*_pairs(queries, "train", names), *_pairs(queries, "test", names), names)
    task_names: list[str] | None = None
    if by == "domain":
        task_names, tasks = _by_domain(domains, tasks, seed, class_order)
    elif by != "random":
        raise ConfigError(expected='by "domain" or "random"', got=repr(by), remedy="Choose one.")
    return by_class(
        subset(source, train_per_class, test_per_class, subset_seed),
        tasks=15 if tasks is None else tasks,
        seed=seed,
        validation=validation,
        class_order=class_order,
        task_names=task_names,
        scenario=scenario,
        name="clinc150",
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
    return [text for text, _ in _rows(_read_json(path, dict), f"oos_{split}")]


def banking77(
    *,
    tasks: Tasks = 7,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    class_order: ClassOrder = None,
    scenario: Literal["class", "task"] = "class",
) -> Stream:
    """Build BANKING77: 77 intents of online banking in 7 tasks of 11.

    Arguments and errors are those of `clinc150` with `by="random"`; `data` holds `BANKING77/`.

    Reference: I. Casanueva et al., Efficient Intent Detection with Dual Sentence Encoders, NLP for
    ConvAI 2020 (CC BY 4.0).
    """
    train, test, categories = locate(BANKING77, data)
    names = _read_json(categories, list)
    tables = [read_table(path, text="text", label="category") for path in (train, test)]
    splits = [(table.texts, class_ids(table.labels, names)) for table in tables]
    source = read_source(*splits[0], *splits[1], names)
    return by_class(
        subset(source, train_per_class, test_per_class, subset_seed),
        tasks=tasks,
        seed=seed,
        validation=validation,
        class_order=class_order,
        scenario=scenario,
        name="banking77",
    )


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


def _read_json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        value = f"{type(error).__name__}: {error}"
    if not isinstance(value, kind):
        raise DataError(
            expected=f"a JSON {'object' if kind is dict else 'list'} in {path}",
            got=value if isinstance(value, str) else type(value).__name__,
            remedy="Get the file again; it may be cut short.",
        )
    return value
