"""The tables of numbers and settings on the page, as plain texts for the template."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cpool.report import text
from cpool.report.ranking import BEST
from cpool.report.results import Row
from cpool.report.table import COLUMNS, captions, grid, headings

__all__ = ["Grid", "facts", "numbers_of_runs", "settings_of_rows", "summary_table"]


@dataclass(frozen=True)
class Grid:
    """A table: headings, rows of texts, lines below it, and the number of the best row."""

    head: list[str]
    rows: list[list[str]]
    notes: list[str]
    best: int | None = None


def summary_table(rows: Sequence[Row]) -> Grid:
    """The table of `results_table`, for the page."""
    lines = [cells for _, cells in grid(rows, COLUMNS, several=False)]
    best = next((k for k, cells in enumerate(lines) if BEST in cells[1]), None)
    return Grid(headings(COLUMNS, several=False), lines, captions(rows, []), best)


def facts(results: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What the run was made of: backbone, stream, training, machine."""
    stream = dict(results.get("stream") or {})
    for key in ("task_names", "task_classes", "class_names", "train_sizes", "test_sizes"):
        stream.pop(key, None)  # the table of tasks has them
    parts = {
        "Backbone": results.get("backbone") or {},
        "Stream": stream,
        "Training": results.get("train") or {},
        "Machine and versions": environment,
    }
    return {
        title: {key.replace("_", " "): _fact(value) for key, value in part.items()}
        for title, part in parts.items()
        if part
    }


def settings_of_rows(rows: Sequence[Row]) -> Grid:
    """The hyper-parameters and the training of every row, of its first seed."""
    lines = []
    for row in rows:
        run = row.runs[0]
        own, train = run.get("hyper_parameters") or {}, run.get("train") or {}
        lines.append([row.label, row.method, _settings(own), _settings(train)])
    return Grid(["row", "method", "hyper-parameters", "training"], lines, [])


def numbers_of_runs(rows: Sequence[Row]) -> Grid:
    """Every number of every seed."""
    shares = {
        "accuracy": "average_accuracy",
        "weighted": "average_accuracy_weighted",
        "incremental": "average_incremental_accuracy",
        "forgetting": "forgetting",
        "backward": "backward_transfer",
        "forward": "forward_transfer",
        "learning": "learning_accuracy",
    }
    costs = {
        "trained": ("trainable_parameters", text.count),
        "per task": ("bytes_per_task", text.size),
        "in all": ("total_bytes", text.size),
        "train s": ("train_seconds", text.plain),
        "predict s": ("predict_seconds", text.plain),
        "peak memory": ("peak_memory_bytes", text.size),
        "FLOPs a sample": ("flops_per_sample", text.count),
    }
    lines = []
    for row in rows:
        for run in row.runs:
            line = [row.label, str(run.get("seed", text.MISSING))]
            line += [_share(run.get(key)) for key in shares.values()]
            lines.append(line + [write(run.get(key)) for key, write in costs.values()])
    return Grid(["method", "seed", *shares, *costs], lines, [])


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {_fact(value)}" for key, value in values.items()) or text.MISSING


def _share(value: int | float | None) -> str:
    return text.MISSING if value is None else f"{100 * value:.2f}".replace("-", "−")


def _fact(value: Any) -> str:
    if value is None or value == "":
        return text.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return json.dumps(value) if isinstance(value, dict) else str(value)
