"""Streams of a CSV or JSON Lines file of your own."""

import os
from typing import Any, Literal

import numpy as np

from cpool.errors import ConfigError, DataError
from cpool.streams._checks import check_flag, check_seed
from cpool.streams._locate import check_path
from cpool.streams._rows import Rows, read_rows
from cpool.streams._source import Source, subset
from cpool.streams._splits import ClassOrder, Tasks
from cpool.streams.base import Stream
from cpool.streams.domains import domain_incremental
from cpool.streams.scenarios import by_class

__all__ = ["text_file"]


def text_file(
    path: str | os.PathLike[str],
    *,
    tasks: Tasks | None = None,
    seed: int = 0,
    validation: float | int = 0.1,
    test_path: str | os.PathLike[str] | None = None,
    text: str = "text",
    label: str = "label",
    task: str | None = None,
    split: str | None = None,
    test_fraction: float | int = 0.2,
    test_seed: int = 0,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    shuffle: bool = False,
    class_order: ClassOrder = None,
    scenario: Literal["class", "task", "domain"] = "class",
) -> Stream:
    r"""Build a stream of the texts in a `.csv` file (with header) or a `.jsonl` file, in UTF-8.

    Args:
        path: the file; its labels are class names, ordered by name.
        tasks: as in `class_incremental`, by default 5; not needed with a task column.
        seed: as in `class_incremental`.
        validation: as in `class_incremental`.
        test_path: a file of test rows with the same columns.
        text: column of the texts.
        label: column of the class names.
        task: column that says in which task a row is; by default "task", if there is one. Tasks
            come in the order in which the file names them.
        split: column of "train" and "test"; by default "split", if there is one.
        test_fraction: share of every class for the test, without test file and split column.
        test_seed: draws this share; apart from `seed`, so that every seed has the same test.
        train_per_class: how many training examples of each class to keep; all by default.
        test_per_class: how many test examples of each class to keep; all by default.
        subset_seed: draws the kept examples; apart from `seed`, so that every seed sees the same.
        shuffle: let the seed decide the order of the tasks of a task column.
        class_order: as in `class_incremental`.
        scenario: as in `class_incremental`; "domain" if every task of the column has all classes.

    Raises:
        DataError: a file that is missing or broken, a column that is not there, an empty text, or
            rows that do not make up the scenario.
        ConfigError: an option that does not fit.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "mine.csv"
    ...     _ = path.write_text("text,label,task\n" + "good,yes,1\nbad,no,1\ncat,pet,2\n" * 3)
    ...     stream = text_file(path, validation=0)
    >>> stream.class_names, [task.classes for task in stream], stream[0].test.ids.tolist()
    (('no', 'pet', 'yes'), [(0, 2), (1,)], [...])
    """
    rows = read_rows(check_path(path, "path"), test_path, text, label, task, split)
    options: dict[str, Any] = {"seed": seed, "validation": validation, "name": "text_file"}
    check_flag(shuffle, "shuffle")
    if rows.tasks is not None or scenario == "domain":
        _only_column(rows, tasks, class_order)
    sizes = (train_per_class, test_per_class, subset_seed)
    if scenario == "domain":
        return domain_incremental(
            _domains(rows, subset(rows.source(test_fraction, test_seed), *sizes)),
            names=rows.names,
            class_names=rows.class_names,
            shuffle=shuffle,
            **options,
        )
    options |= {"class_order": class_order, "scenario": scenario}
    if rows.tasks is None:
        options["tasks"] = 5 if tasks is None else tasks
    else:
        groups, order = _classes_of_tasks(rows), np.arange(len(rows.names))
        if shuffle:
            order = np.random.default_rng(check_seed(seed)).permutation(len(order))
        options["tasks"] = [groups[i] for i in order]
        options["task_names"] = [rows.names[i] for i in order]
    return by_class(subset(rows.source(test_fraction, test_seed), *sizes), **options)


def _only_column(rows: Rows, tasks: Any, class_order: Any) -> None:
    if rows.tasks is None:
        raise ConfigError(
            expected='a task column with scenario "domain"',
            got="none",
            remedy="Add a column that names the domain of each row, and give its name as task=.",
        )
    if class_order is not None or tasks not in (None, len(rows.names)):
        raise ConfigError(
            expected=f"the {len(rows.names)} tasks of the file's task column, in its order",
            got=f"tasks={tasks!r}, class_order={'none' if class_order is None else 'given'}",
            remedy="Leave tasks and class_order out, or rename the column.",
        )


def _classes_of_tasks(rows: Rows) -> list[list[int]]:
    pairs = sorted(set(zip(rows.labels.tolist(), rows.tasks or [], strict=True)))
    counts = np.bincount([label for label, _ in pairs])
    if counts.max() > 1:
        name = rows.class_names[int(counts.argmax())]
        raise DataError(
            expected="every class in one task only",
            got=f"class {name!r} in {counts.max()} tasks",
            remedy='Use scenario="domain" if all classes occur in every task.',
        )
    return [[label for label, task in pairs if task == i] for i in range(len(rows.names))]


def _domains(rows: Rows, source: Source) -> list[tuple[Any, Any, Any, Any]]:
    domains, tasks = [], np.array(rows.tasks)
    for i in range(len(rows.names)):
        train, test = (part.take(tasks[part.ids] == i) for part in (source.train, source.test))
        domains.append((train.x, train.y, test.x, test.y))
    return domains
