"""Streams of text sets without domains of their own: BANKING77."""

import os
from typing import Literal

from cpool.streams._labels import class_ids
from cpool.streams._locate import DataSet, locate
from cpool.streams._source import Source, few_classes, read_source
from cpool.streams._splits import ClassOrder, Tasks
from cpool.streams._tables import read_json, read_table
from cpool.streams.base import Stream
from cpool.streams.scenarios import by_class

__all__ = ["BANKING77", "banking77", "banking_source"]

BANKING77 = DataSet(
    title="BANKING77",
    folder="BANKING77",
    files=("train.csv", "test.csv", "categories.json"),
    origin="PolyAI-LDN/task-specific-datasets on GitHub (banking_data)",
)


def banking77(
    *,
    tasks: Tasks = 7,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    classes: int | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    class_order: ClassOrder = None,
    scenario: Literal["class", "task"] = "class",
) -> Stream:
    """Build BANKING77: 77 intents of online banking in 7 tasks of 11.

    Arguments and errors are those of `clinc150` with `by="random"`; `data` holds `BANKING77/`, and
    `classes` keeps so many intents, drawn by `subset_seed`, in place of all.

    Reference: I. Casanueva et al., Efficient Intent Detection with Dual Sentence Encoders, NLP for
    ConvAI 2020 (CC BY 4.0).
    """
    return by_class(
        few_classes(banking_source(data), classes, subset_seed),
        tasks=tasks,
        seed=seed,
        validation=validation,
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        subset_seed=subset_seed,
        class_order=class_order,
        scenario=scenario,
        name="banking77",
    )


def banking_source(data: str | os.PathLike[str] | None) -> Source:
    """Return all queries of BANKING77."""
    train, test, categories = locate(BANKING77, data)
    names = read_json(categories, list)
    tables = [read_table(path, text="text", label="category") for path in (train, test)]
    splits = [(table.texts, class_ids(table.labels, names)) for table in tables]
    return read_source(*splits[0], *splits[1], names)
