"""The pictures of the page as plain data for the template: plotly figures and heat tables."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from markupsafe import Markup

from cpool.report import text
from cpool.report.diagnostics import Diagnostic
from cpool.report.grids import Grid
from cpool.report.heat import HeatTable, accuracy_heat, span_of, usage_heat
from cpool.report.plots import (
    accuracy_curves,
    cost_of,
    curve_of,
    forgetting_against_cost,
    keys_and_queries,
)
from cpool.report.results import Row
from cpool.report.sentences import cost_summary, curves_summary, matrix_summary

__all__ = [
    "Picture",
    "accuracy_matrices",
    "cost_picture",
    "curves_picture",
    "key_pictures",
    "usage_tables",
]


@dataclass(frozen=True)
class Picture:
    """A plotly figure as JSON, its text, and the numbers it is drawn from (None: only points)."""

    name: str
    title: str
    summary: str
    figure: Markup
    numbers: Grid | None


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


def _json(figure: go.Figure) -> Markup:
    figure.update_layout(template="none", margin={"l": 64, "r": 24, "t": 24, "b": 56})
    content = json.dumps(figure.to_plotly_json(), ensure_ascii=False, separators=(",", ":"))
    # Inside a script element nothing is unescaped, so no "<" may stand there.
    return Markup(content.replace("<", "\\u003c"))
