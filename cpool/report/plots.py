"""The plotly figures of the report. Colours are left to the page, which knows its theme.

A trace's `meta` holds the number of its colour in the page's palette (−1: neutral, −2: a key), and
its symbol or dash tells it apart without colour.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from cpool.errors import MetricError
from cpool.metrics import average_accuracy_curve
from cpool.report.results import Row
from cpool.report.text import size

__all__ = ["accuracy_curves", "cost_of", "curve_of", "forgetting_against_cost", "keys_and_queries"]

NEUTRAL, KEY = -1, -2
COLOURS = 8
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
DASHES = ("solid", "dash", "dot", "dashdot")
SMALL_KEY = {"symbol": "diamond", "size": 8, "line": {"width": 1.5}}
MOST_QUERIES = 120


def curve_of(
    row: Row,
) -> tuple[Float[np.ndarray, "tasks"], Float[np.ndarray, "tasks"] | None] | None:
    """Return mean and sample deviation over the seeds of the accuracy on the tasks seen so far.

    Both [tasks], fractions; None where a seed lacks a part of the matrix, as a joint bound does.
    """
    try:
        curves = np.array([average_accuracy_curve(matrix) for matrix in row.matrices()])
    except (MetricError, ValueError):  # a gap, or seeds with unequal numbers of tasks
        return None
    if not len(curves):
        return None
    return curves.mean(axis=0), curves.std(axis=0, ddof=1) if len(curves) > 1 else None


def accuracy_curves(rows: Sequence[Row]) -> go.Figure:
    """Draw the accuracy on the tasks seen so far after each task; upper bounds as level lines."""
    figure = go.Figure()
    steps = 1
    for k, row in enumerate(rows):
        curve = curve_of(row)
        if curve is None:
            continue
        mean, deviation = 100 * curve[0], curve[1]
        steps = max(steps, len(mean))
        error = {"type": "data", "array": _listed(100 * deviation)} if deviation is not None else {}
        figure.add_scatter(
            x=list(range(1, len(mean) + 1)),
            y=_listed(mean),
            name=_plain(row.label),
            mode="lines+markers",
            marker={"symbol": SYMBOLS[k % len(SYMBOLS)], "size": 9},
            line={"dash": DASHES[k // COLOURS % len(DASHES)], "width": 2},
            error_y={**error, "thickness": 1, "width": 3} if error else None,
            meta=k % COLOURS,
            hovertemplate="%{y:.2f} % after %{x} tasks",
        )
    _add_bounds(figure, rows, steps)
    figure.update_xaxes(title_text="tasks learned so far", dtick=1 if steps <= 15 else None)
    figure.update_yaxes(title_text="accuracy on them, %")
    figure.update_layout(hovermode="x unified", legend={"orientation": "h", "y": -0.22})
    return figure


def _add_bounds(figure: go.Figure, rows: Sequence[Row], steps: int) -> None:
    for row in rows:
        stat = row.stat("average_accuracy")
        if row.role == "upper bound" and stat is not None:
            figure.add_scatter(
                x=[1, steps],
                y=[round(100 * stat.mean, 3)] * 2,
                name=f"{_plain(row.label)} (upper bound)",
                mode="lines",
                line={"dash": "dash", "width": 2},
                meta=NEUTRAL,
                hovertemplate="%{y:.2f} %",
            )


def cost_of(row: Row) -> float | None:
    """Return the bytes a task costs, as far as they were measured and are not 0."""
    stat = row.stat("bytes_per_task")
    return stat.mean if stat is not None and stat.mean > 0 else None


def forgetting_against_cost(rows: Sequence[Row]) -> go.Figure:
    """Draw forgetting in points over bytes a task, one marker a row that has both."""
    figure = go.Figure()
    shown = [(k, row) for k, row in enumerate(rows) if cost_of(row) and row.stat("forgetting")]
    heights = sorted((row.stat("forgetting") for _, row in shown), key=lambda s: s.mean if s else 0)
    for k, row in shown:
        forgetting, cost = row.stat("forgetting"), cost_of(row)
        if forgetting is None or cost is None:
            continue
        above = heights.index(forgetting) % 2 == 1  # neighbours in height: one above, one below
        figure.add_scatter(
            x=[cost],
            y=[round(100 * forgetting.mean, 3)],
            text=[_plain(row.label)],
            name=_plain(row.label),
            mode="markers+text",
            textposition="top center" if above else "bottom center",
            marker={"symbol": "square" if row.role == "baseline" else "circle", "size": 13},
            meta=k % COLOURS,
            cliponaxis=False,
            hovertemplate="%{x:.3s}B a task, %{y:.2f} points forgotten",
        )
    costs = [np.log10(cost) for _, row in shown if (cost := cost_of(row))] or [0.0]
    powers = [10**e for e in range(int(min(costs)) - 1, int(max(costs)) + 3)]
    figure.update_xaxes(
        title_text="bytes a task (logarithmic)",
        type="log",
        range=[min(costs) - 0.6, max(costs) + 0.6],
        tickvals=powers,
        ticktext=[size(power, digits=1) for power in powers],
    )
    figure.update_yaxes(title_text="forgetting, points", rangemode="tozero")
    figure.update_layout(showlegend=False)
    return figure


def keys_and_queries(branch: Mapping[str, Any], queries: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Draw the keys of one branch as large markers over the queries of every task.

    Args:
        branch: with `keys` [[x, y], …] and `slots`.
        queries: `[{"task": int, "xy": [[x, y], …]}]`, in the plane of the keys.
    """
    figure = go.Figure()
    for query in queries:
        task = int(query["task"])
        points = _thinned(query["xy"])
        figure.add_scatter(
            x=[x for x, _ in points],
            y=[y for _, y in points],
            name=f"task {task}",
            mode="markers",
            marker={"symbol": SYMBOLS[task % len(SYMBOLS)], "size": 6, "opacity": 0.65},
            meta=task % COLOURS,
            hovertemplate="a sample of %{fullData.name}<extra></extra>",
        )
    names = [str(slot.get("name") or slot.get("id") or k) for k, slot in enumerate(branch["slots"])]
    few = len(branch["keys"]) <= 20
    # Filled with the colour of the paper by the page, so that the number in it can be read.
    marker = {"symbol": "diamond", "size": 22, "line": {"width": 2}} if few else SMALL_KEY
    figure.add_scatter(
        x=[x for x, _ in branch["keys"]],
        y=[y for _, y in branch["keys"]],
        text=[str(k) for k in range(len(names))],
        customdata=[_plain(name) for name in names],
        name="keys",
        mode="markers+text" if few else "markers",
        textposition="middle center",
        cliponaxis=False,
        marker=marker,
        meta=KEY,
        hovertemplate="key of %{customdata}<extra></extra>",
    )
    figure.update_xaxes(title_text="first principal direction", zeroline=False)
    figure.update_yaxes(title_text="second", zeroline=False)
    figure.update_layout(legend={"orientation": "h", "y": -0.22})
    return figure


def _thinned(points: Sequence[Sequence[int | float]]) -> list[tuple[float, float]]:
    step = max(1, -(-len(points) // MOST_QUERIES))
    return [(round(float(x), 3), round(float(y), 3)) for x, y in points[::step]]


def _listed(values: Float[np.ndarray, "tasks"]) -> list[float]:
    # Lists, not arrays: plotly packs arrays as base64, which nobody can read in the page.
    return [round(float(v), 3) for v in values]


def _plain(label: str) -> str:
    # plotly reads a few tags in texts; a label is never markup.
    return label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
