"""The plot of a study: one SVG without script, font or network, a small plot a panel and metric.

Marks are means, bars one sample deviation over the seeds to either side. It takes the colour of the
text around it, where it stands inside a page, and follows the system's dark scheme as a file of its
own; series differ in shape and dash, too, not in colour alone.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from benchmarks.study_axes import (
    BOTTOM,
    CHARACTER,
    HEIGHT,
    LEFT,
    TOP,
    Axes,
    axes_of,
    axis_name,
    frame,
    plot_width,
)
from benchmarks.study_file import METRICS
from benchmarks.study_results import Table
from cpool.report import text

__all__ = ["COLOURS", "plot_svg"]

# Each has a contrast of 3 or more to white and to the dark page.
COLOURS = ("#2f7fc1", "#c8662a", "#2a9168", "#a05fc0", "#c2477f", "#8a7a1f", "#5b7f95", "#b5524a")
MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -4.8L4.4 3.4H-4.4z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 4.8L4.4 -3.4H-4.4z",
    "M-5 -1.6h10v3.2h-10z",
)
DASHES = ("", "6 3", "2 3")
RIGHT, WIDEST, ROW = 14, 1000, 20
STYLE = """\
    .cpool-study { color: #1f2933; font-family: system-ui, "Segoe UI", "Helvetica Neue", Arial, \
sans-serif; font-size: 12px; }
    @media (prefers-color-scheme: dark) { .cpool-study { color: #e6edf3; } }
    .cpool-study text { fill: currentColor; }
    .cpool-study .title { font-weight: 700; }
    .cpool-study .middle { text-anchor: middle; }
    .cpool-study .end { text-anchor: end; }
    .cpool-study .axis { fill: none; stroke: currentColor; stroke-width: 1; }
    .cpool-study .grid { fill: none; stroke: currentColor; stroke-width: 0.5; opacity: 0.25; }
    .cpool-study .line, .cpool-study .bar { fill: none; stroke-width: 1.6; }"""


def plot_svg(document: Mapping[str, Any]) -> str:
    """Draw the points of a study.

    Args:
        document: the content of its JSON.
    """
    table = Table(document)
    names = list(dict.fromkeys(name for panel in table.panels for name in table.series(panel)))
    width = max(plot_width(table.xs(panel)) for panel in table.panels)
    room = max(_room(*_title(table, p, m)) for p in table.panels for m in table.metrics)
    width = max(width, room - LEFT - RIGHT)
    cell = LEFT + width + RIGHT
    columns = max(1, min(len(table.panels), int(WIDEST // cell)))
    rows = math.ceil(len(table.panels) / columns)
    tall, total = TOP + HEIGHT + BOTTOM, columns * cell
    head, parts = 0, []
    if document["minus"] is not None:
        head = 24
        names_axis = escape("; ".join(axis_name(document, metric) for metric in table.metrics))
        parts.append(f'  <text x="8" y="16">{names_axis}</text>')
    for down, metric in enumerate(table.metrics):
        for number, panel in enumerate(table.panels):
            left = (number % columns) * cell
            top = head + (down * rows + number // columns) * tall
            parts.append(f'  <g transform="translate({left:g} {top:g})">')
            parts += [*_panel(table, panel, metric, names, width), "  </g>"]
    legend, height = _legend(names, total, head + len(table.metrics) * rows * tall)
    return "\n".join(
        [
            f'<svg class="cpool-flow cpool-study" xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 0 {total:g} {height:g}" role="img" aria-label="{escape(_said(table))}">',
            "  <style>",
            STYLE,
            "  </style>",
            *parts,
            *legend,
            "</svg>\n",
        ]
    )


def _panel(table: Table, panel: str, metric: str, names: Sequence[str], width: float) -> list[str]:
    axes = axes_of(table, panel, metric, width)
    bold, plain = _title(table, panel, metric)
    title = escape(plain)
    if bold:
        title = f'<tspan class="title">{escape(bold)}</tspan>{f" {title}" if title else ""}'
    parts = [f'    <text x="8" y="16">{title}</text>', *frame(table, axes)]
    here = table.series(panel)
    for name in here:
        number = names.index(name)
        shift = 0.0
        if table.document["along"] == "method" and len(here) > 1:
            shift = 12.0 * (here.index(name) - (len(here) - 1) / 2)
        parts += _series(table, (panel, name, metric), axes, number, shift)
    return parts


def _title(table: Table, panel: str, metric: str) -> tuple[str, str]:
    """Return what stands above a panel, in bold and plain: its name, and what its axis shows."""
    shown = not panel or len(table.metrics) > 1 or table.document["minus"] is None
    return panel, axis_name(table.document, metric) if shown else ""


def _room(bold: str, plain: str) -> float:
    """Return how much width a title takes, from the left end of the picture."""
    return 8 + (1.12 * len(bold) + len(f" {plain}" if bold and plain else plain)) * CHARACTER


def _series(
    table: Table, what: tuple[str, str, str], axes: Axes, number: int, shift: float
) -> list[str]:
    panel, name, metric = what
    colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
    single = table.document["along"] == "method"
    dots, bars, marks, places = [], [], [], []
    for x in axes.x_ticks:
        stat = table.stat(panel, name, x, metric)
        if stat is None:
            continue
        place, y = axes.x_of(x) + shift, axes.y_of(stat.mean)
        places.append((place, y))
        if stat.deviation:
            ends = [axes.y_of(stat.mean + sign * stat.deviation) for sign in (1, -1)]
            bars.append(
                f'    <path class="bar" stroke="{colour}" d="M{place - 3:.1f} {ends[0]:.1f}h6m-3 0'
                f'V{ends[1]:.1f}m-3 0h6"/>'
            )
        if single:
            for value in table.values(panel, name, x, metric).values():
                dots.append(
                    f'    <circle class="seed" cx="{place:.1f}" cy="{axes.y_of(value):.1f}" r="2" '
                    f'fill="{colour}" opacity="0.45"/>'
                )
        marks.append(
            f'    <path class="mark" fill="{colour}" d="{mark}" '
            f'transform="translate({place:.1f} {y:.1f})"/>'
        )
    lines = []
    if not single:
        dash = DASHES[number // len(MARKS) % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        for (x1, y1), (x2, y2) in pairwise(places):
            lines.append(
                f'    <path class="line" stroke="{colour}"{dashed} '
                f'd="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'
            )
    return [*lines, *dots, *bars, *marks]


def _legend(names: Sequence[str], width: float, top: float) -> tuple[list[str], float]:
    """Return the lines of the legend, and the height of the whole picture with it."""
    if names in ([""], []):
        return [], top
    parts, x, y = [], float(LEFT), top + 10.0
    for number, name in enumerate(names):
        room = 22 + len(name) * CHARACTER + 16
        if x + room > width and x > LEFT:
            x, y = float(LEFT), y + ROW
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        parts.append(f'  <path fill="{colour}" d="{mark}" transform="translate({x + 6:g} {y:g})"/>')
        parts.append(f'  <text x="{x + 18:g}" y="{y + 4:g}">{escape(name)}</text>')
        x += room
    return parts, y + ROW


def _said(table: Table) -> str:
    """Return the numbers for who cannot see them."""
    said = [f"{table.document['title']}."]
    for metric in table.metrics:
        for panel in table.panels:
            said.append(f"{panel or axis_name(table.document, metric)}:")
            for name in table.series(panel):
                stats = [(x, table.stat(panel, name, x, metric)) for x in table.xs(panel)]
                digits = METRICS[metric].digits
                cells = [f"{x} {text.with_deviation(s, 1.0, digits)}" for x, s in stats if s]
                said.append(f"{name} {'; '.join(cells)}.".lstrip())
    return " ".join(said)
