"""The folder of a tuned model: what it was made from, and the rows that were held out."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cpool._io import read_json, write_bytes, write_json
from cpool.data import as_completions, as_examples
from cpool.errors import CheckpointError
from cpool.streams import Examples
from cpool.tuning.rows import COLUMNS, Kind

__all__ = ["MODEL", "Record", "TaskRecord", "read_held", "read_record", "write_held"]

RECORD, HELD, MODEL = "tuned.json", "held-out.jsonl", "model"


@dataclass
class TaskRecord:
    """One task of a tuned model.

    Attributes:
        name: what people call it.
        data: where its rows came from.
        classes: numbers of its labels.
        rows: how many it learned from.
        held_out: how many were kept to measure on.
        completions: of a task of completions: tokens of the "shortest", the "mean" and the
            "longest", their end included, and how many texts were "cut" to leave them room.
    """

    name: str
    data: str
    classes: list[int]
    rows: int
    held_out: int
    completions: dict[str, Any] | None = None


@dataclass
class Record:
    """What tuned.json holds.

    Attributes:
        backbone: arguments of `load_backbone`.
        labels: names of the classes, by number.
        tasks: in the order learned.
        compared: rows of the comparison that was made when the model was tuned.
        kind: what its rows teach: "labels", or "completions".
    """

    backbone: dict[str, Any]
    labels: list[str]
    tasks: list[TaskRecord] = field(default_factory=list)
    compared: list[dict[str, Any]] = field(default_factory=list)
    kind: Kind = "labels"

    def upto(self, tasks: int) -> "Record":
        """Return the record of the first tasks: one may be written before the model has its task.

        >>> tasks = [TaskRecord("a", "", [0, 1], 4, 1), TaskRecord("b", "", [2], 4, 1)]
        >>> Record({}, ["x", "y", "z"], tasks).upto(1).labels
        ['x', 'y']
        """
        kept = self.tasks[:tasks]
        if len(kept) == len(self.tasks):
            return self
        known = 1 + max((c for task in kept for c in task.classes), default=-1)
        labels = self.labels[:known] if self.kind == "labels" else self.labels
        return replace(self, labels=labels, tasks=kept)

    def write(self, folder: Path) -> None:
        """Write it, atomically."""
        write_json(folder / RECORD, {"schema": 1, **asdict(self)})


def read_record(folder: Path) -> Record:
    """Read tuned.json.

    Raises:
        CheckpointError: it is not there, or not of this schema.
    """
    path = folder / RECORD
    if not path.is_file():
        raise CheckpointError(
            expected=f"a folder that `cpool tune` wrote, with {RECORD}",
            got=f"none in {folder}",
            remedy="Name the folder given as --out.",
        )
    content = read_json(path)
    if not isinstance(content, dict) or content.pop("schema", None) != 1:
        raise CheckpointError(
            expected=f"{RECORD} of schema 1", got=str(path), remedy="Install a newer cpool."
        )
    content["tasks"] = [TaskRecord(**task) for task in content["tasks"]]
    return Record(**content)


def write_held(folder: Path, parts: Sequence[Examples]) -> None:
    """Write the held-out rows of all tasks, one line a row."""
    rows = []
    for task, part in enumerate(parts):
        names = COLUMNS["labels" if part.completions is None else "completions"]
        answers = part.y.tolist() if part.completions is None else part.completions
        for text, answer in zip(part.x, answers, strict=True):
            rows.append({"task": task, names[0]: str(text), names[1]: answer})
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_bytes(folder / HELD, ("\n".join(lines) + "\n").encode())


def read_held(folder: Path, tasks: int, kind: Kind = "labels") -> list[Examples]:
    """Read the held-out rows of each task."""
    text, answer = COLUMNS[kind]
    lines = (folder / HELD).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    made = []
    for task in range(tasks):
        own = [row for row in rows if row["task"] == task]
        texts, answers = ([row[name] for row in own] for name in (text, answer))
        if kind == "completions":
            made.append(as_completions(texts, answers, task))
        else:
            made.append(as_examples((texts, np.array(answers, dtype=np.int64))))
    return made
