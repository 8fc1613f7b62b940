"""The rows of a text file, and of its test file if there is one, numbered through."""

from pathlib import Path
from typing import Any

from cpool.errors import DataError
from cpool.streams._labels import class_ids, sorted_names
from cpool.streams._locate import check_path
from cpool.streams._source import Source, divide, read_source
from cpool.streams._tables import Table, column_names, read_table

__all__ = ["Rows", "read_rows"]


class Rows:
    """Training rows, then test rows; with no test rows, a share of the training rows is drawn.

    Attributes:
        class_names: the distinct labels, in order.
        labels: position of each row's label in `class_names`, int64 [rows].
        names: the distinct tasks of the task column, in order of appearance; maybe none.
        tasks: position of each row's task in `names`, or None without a task column.
    """

    def __init__(self, train: Table, test: Table | None) -> None:
        self._train, self._test = train, test
        tables = [train] if test is None else [train, test]
        labels = [name for table in tables for name in table.labels]
        self.class_names = sorted_names(labels)
        self.labels = class_ids(labels, self.class_names)
        tasks = [name for table in tables for name in table.tasks or ()]
        self.names = list(dict.fromkeys(tasks))
        self.tasks: list[int] | None = class_ids(tasks, self.names).tolist() if tasks else None

    def source(self, test_fraction: float | int, test_seed: int) -> Source:
        """Return the rows as checked examples whose ids are the numbers of the rows."""
        n = len(self._train.texts)
        if self._test is not None:
            tests = (self._test.texts, self.labels[n:])
            return read_source(self._train.texts, self.labels[:n], *tests, self.class_names)
        source = read_source(self._train.texts, self.labels, None, None, self.class_names)
        groups = self.labels
        if self.tasks is not None:
            groups = groups * len(self.names) + self.tasks
        return divide(source, test_fraction, test_seed, groups)


def read_rows(
    path: Path, test_path: Any, text: str, label: str, task: str | None, split: str | None
) -> Rows:
    """Read the columns of a file; those of tasks and splits also unasked, under these names.

    Raises:
        DataError: see `read_table`; or a split column with other words than train and test.
    """
    present = column_names(path)
    task = task if task is not None else "task" if "task" in present else None
    if test_path is not None:
        files = (path, check_path(test_path, "test_path"))
        train, test = (read_table(f, text=text, label=label, task=task) for f in files)
        return Rows(train, test)
    split = split if split is not None else "split" if "split" in present else None
    table = read_table(path, text=text, label=label, task=task, split=split)
    if table.splits is None:
        return Rows(table, None)
    if set(table.splits) != {"train", "test"}:
        raise DataError(
            expected=f'"train" and "test" in column {split!r} of {path}',
            got=", ".join(map(repr, sorted(set(table.splits)))),
            remedy="Rename or drop other rows; validation comes out of the training rows.",
        )
    return Rows(_where(table, "train"), _where(table, "test"))


def _where(table: Table, split: str) -> Table:
    rows = [i for i, name in enumerate(table.splits or ()) if name == split]
    tasks = None if table.tasks is None else [table.tasks[i] for i in rows]
    return Table([table.texts[i] for i in rows], [table.labels[i] for i in rows], tasks)
