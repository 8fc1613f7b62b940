"""Rows of text from CSV and JSON Lines files, and JSON files; errors name the line."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpool.errors import DataError

__all__ = ["Table", "column_names", "read_json", "read_table"]


@dataclass(frozen=True)
class Table:
    """Columns of a file, one entry a row; `tasks` and `splits` are None without such a column."""

    texts: list[str]
    labels: list[str]
    tasks: list[str] | None = None
    splits: list[str] | None = None


def read_table(
    path: Path, *, text: str, label: str, task: str | None = None, split: str | None = None
) -> Table:
    """Read columns from a `.csv` (comma, header) or `.jsonl` (an object a line) file, in UTF-8.

    Raises:
        DataError: no such file, another ending, a column that is not there (the message names
            those that are), a broken line, an empty value, or no rows.
    """
    columns = [name for name in (text, label, task, split) if name is not None]
    values: dict[str, list[str]] = {name: [] for name in columns}
    try:
        for line, row in _rows(path):
            for name in columns:
                values[name].append(_value(row, name, path, line))
    except (UnicodeDecodeError, OSError) as error:
        raise _broken(path, None, f"{type(error).__name__}: {error}") from error
    if not values[text]:
        raise _broken(path, None, "no rows", "Add at least one row under the header.")
    return Table(
        texts=values[text],
        labels=values[label],
        tasks=values[task] if task is not None else None,
        splits=values[split] if split is not None else None,
    )


def column_names(path: Path) -> tuple[str, ...]:
    """Return the columns of the first row, or nothing if there is none.

    Raises:
        DataError: no such file, another ending, or a broken first line.
    """
    try:
        first = next(_rows(path), None)
    except (UnicodeDecodeError, OSError) as error:
        raise _broken(path, None, f"{type(error).__name__}: {error}") from error
    return () if first is None else tuple(first[1])


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = {".csv": _csv_rows, ".jsonl": _jsonl_rows}.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise DataError(
            expected="a file that ends in .csv or .jsonl",
            got=f"{path}, {'of another ending' if path.is_file() else 'which is not there'}",
            remedy="Check the path, or convert the table.",
        )
    return reader(path)


def read_json(path: Path, kind: type) -> Any:
    """Read a JSON file whose value is a list or a dict, as `kind` says.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
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


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, None)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header or ()):
                    got = f"{len(cells)} cells under {len(header or ())} columns"
                    raise _broken(path, reader.line_num, got, "Put texts with commas in quotes.")
                yield reader.line_num, dict(zip(header or (), cells, strict=True))
        except csv.Error as error:
            raise _broken(path, reader.line_num, str(error)) from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise _broken(path, number, f"no JSON: {error}") from error
            if not isinstance(row, dict):
                raise _broken(path, number, f"a JSON {type(row).__name__}, not an object")
            yield number, row


def _value(row: dict[str, Any], column: str, path: Path, line: int) -> str:
    if column not in row:
        raise DataError(
            expected=f"a column {column!r} in {path}, line {line}",
            got=f"the columns {', '.join(map(repr, row))}",
            remedy="Rename the column, or name yours: text=, label=, task=, split=.",
        )
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        remedy = "Drop the row, or give it a text or whole number."
        raise _broken(path, line, f"{value!r} in column {column!r}", remedy)
    return str(value)


def _broken(path: Path, line: int | None, got: str, remedy: str = "Repair the file.") -> DataError:
    where = f"{path}" if line is None else f"{path}, line {line}"
    return DataError(expected=f"a readable row of text in {where}", got=got, remedy=remedy)
