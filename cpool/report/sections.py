"""The sections of the page as plain data for the template."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from cpool.report import text
from cpool.report.diagnostics import Diagnostic
from cpool.report.heat import HeatTable, accuracy_heat, span_of, usage_heat
from cpool.report.plots import (
    accuracy_curves,
    cost_of,
    curve_of,
    forgetting_against_cost,
    keys_and_queries,
)
from cpool.report.ranking import BEST
from cpool.report.results import Row
from cpool.report.sentences import cost_summary, curves_summary, matrix_summary
from cpool.report.table import COLUMNS, captions, grid, headings

__all__ = [
    "Grid",
    "Picture",
    "accuracy_matrices",
    "cost_picture",
    "curves_picture",
    "facts",
    "key_pictures",
    "numbers_of_runs",
    "settings_of_rows",
    "summary_table",
    "usage_tables",
]


@dataclass(frozen=True)
class Grid:
    """A table: headings, rows of texts, lines below it, and the number of the best row."""

    head: list[str]
    rows: list[list[str]]
    notes: list[str]
    best: int | None = None


@dataclass(frozen=True)
class Picture:
    """A plotly figure as JSON, its text, and the numbers it is drawn from (None: only points)."""

    name: str
    title: str
    summary: str
    figure: Markup
    numbers: Grid | None


def summary_table(rows: Sequence[Row]) -> Grid:
    """The table of `results_table`, for the page."""
    lines = [cells for _, cells in grid(rows, COLUMNS, several=False)]
    best = next((k for k, cells in enumerate(lines) if BEST in cells[1]), None)
    return Grid(headings(COLUMNS, several=False), lines, captions(rows, []), best)


def curves_picture(rows: Sequence[Row]) -> Picture | None:
    """Accuracy on the tasks seen so far, over time; None when no row has it."""
    curves = [(row.label, curve[0]) for row in rows if (curve := curve_of(row)) is not None]
    if not curves:
        return None
    steps = max(len(curve) for _, curve in curves)
    lines = [[label, *(f"{100 * v:.2f}" for v in curve)] for label, curve in curves]
    numbers = Grid(["method", *(f"{t + 1} learned" for t in range(steps))], lines, [])
    figure = _json(accuracy_curves(rows))
    return Picture("curves", "Accuracy over tasks", curves_summary(rows), figure, numbers)


def accuracy_matrices(rows: Sequence[Row]) -> tuple[list[HeatTable], str]:
    """One heat table a row, the mean over its seeds, and what their common colours mean."""
    found = [(row, values) for row in rows if (values := row.mean_matrix()) is not None]
    span = span_of([values for _, values in found])
    tables = []
    for row, values in found:
        seeds = f"mean of {len(row.runs)} seeds" if len(row.runs) > 1 else "one seed"
        title = f"{row.label}, {seeds}"
        tables.append(accuracy_heat(title, values, matrix_summary(values), span))
    low, high = (f"{100 * edge:.0f} %" for edge in span)
    return tables, f"Colours run from {low} (dark) to {high} (light) in all of them."


def cost_picture(rows: Sequence[Row]) -> Picture | None:
    """Forgetting against bytes a task; None when no row has both."""
    shown = [row for row in rows if cost_of(row) and row.stat("forgetting")]
    if not shown:
        return None
    lines = [
        [row.label, text.size(cost_of(row)), text.points(row.stat("forgetting"))] for row in shown
    ]
    numbers = Grid(["method", "bytes a task", "forgetting, points"], lines, [])
    figure = _json(forgetting_against_cost(rows))
    return Picture("cost", "Forgetting against cost", cost_summary(rows), figure, numbers)


def usage_tables(diagnostics: Sequence[Diagnostic]) -> list[HeatTable]:
    """One heat table a branch whose choices were counted."""
    tables = []
    for diagnostic in diagnostics:
        for branch in diagnostic.branches:
            if not branch["usage"] or not branch["slots"]:
                continue
            names = [str(s.get("name") or f"slot {k}") for k, s in enumerate(branch["slots"])]
            title = f"{diagnostic.label}, {branch['name']}, seed {diagnostic.seed}"
            tables.append(usage_heat(title, branch["usage"], names))
    return tables


def key_pictures(diagnostics: Sequence[Diagnostic]) -> list[Picture]:
    """One picture a branch that has keys in the plane."""
    pictures: list[Picture] = []
    for diagnostic in diagnostics:
        for branch in diagnostic.branches:
            if not branch["keys"]:
                continue
            title = f"{diagnostic.label}, {branch['name']}, seed {diagnostic.seed}"
            samples = sum(len(query["xy"]) for query in diagnostic.queries)
            summary = (
                f"{len(branch['keys'])} keys and {samples} samples of "
                f"{len(diagnostic.queries)} tasks, on the two directions that spread them most."
            )
            figure = _json(keys_and_queries(branch, diagnostic.queries))
            pictures.append(Picture(f"keys-{len(pictures)}", title, summary, figure, None))
    return pictures


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


def _json(figure: go.Figure) -> Markup:
    figure.update_layout(template="none", margin={"l": 64, "r": 24, "t": 24, "b": 56})
    content = json.dumps(figure.to_plotly_json(), ensure_ascii=False, separators=(",", ":"))
    # Inside a script element nothing is unescaped, so no "<" may stand there.
    return Markup(content.replace("<", "\\u003c"))
