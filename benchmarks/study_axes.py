"""The axes of a small plot: where values lie, round numbers beside them, and what is said."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from benchmarks.study_file import METRICS
from benchmarks.study_results import Table, X

__all__ = [
    "BOTTOM",
    "CHARACTER",
    "HEIGHT",
    "LEFT",
    "TOP",
    "Axes",
    "axes_of",
    "axis_name",
    "frame",
    "plot_width",
    "ticks_of",
]

LEFT, TOP, BOTTOM, HEIGHT, NARROWEST, CHARACTER = 54, 30, 46, 190, 250, 7.2
EDGE = 26.0  # from the ends of the axis to the first and last number on it


class Axes(NamedTuple):
    """Where values lie in a small plot, and what its axes say."""

    x_of: Callable[[X], float]
    y_of: Callable[[float], float]
    x_ticks: Sequence[X]
    y_ticks: Sequence[float]
    width: float


def axis_name(document: Mapping[str, Any], metric: str) -> str:
    """Return what the vertical axis shows."""
    known, minus = METRICS[metric], document["minus"]
    unit = " points" if minus is not None and known.unit == " %" else known.unit
    less = "" if minus is None else f" minus that of {minus}"
    return f"{known.name}{less}{unit and ',' + unit}"


def ticks_of(low: float, high: float) -> list[float]:
    """Return 3 to 7 round numbers that enclose both ends.

    >>> ticks_of(61.2, 88.7), ticks_of(0.5, 0.5)
    ([60.0, 70.0, 80.0, 90.0], [0.4, 0.5, 0.6])
    """
    span = high - low or max(abs(high), 1.0) * 0.1
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * k for k in (1, 2, 5, 10) if power * k * 5 >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    return [round(k * step, 10) for k in range(first, last + 1)]


def plot_width(xs: Sequence[X]) -> float:
    """Return the width that the labels of x need."""
    if any(isinstance(x, str) for x in xs):
        return max(NARROWEST, len(xs) * (max(len(str(x)) for x in xs) * CHARACTER + 14))
    return NARROWEST


def axes_of(table: Table, panel: str, metric: str, width: float) -> Axes:
    """Return axes that hold all means, with what lies around them."""
    xs = table.xs(panel)
    if any(isinstance(x, str) for x in xs):
        step = width / len(xs)
        place = {x: LEFT + step * (k + 0.5) for k, x in enumerate(xs)}
    else:
        log = table.document["scale"] == "log" and all(float(x) > 0 for x in xs)
        scaled = {x: math.log(float(x)) if log else float(x) for x in xs}
        low, high = min(scaled.values()), max(scaled.values())
        share = {x: (v - low) / (high - low) if high > low else 0.5 for x, v in scaled.items()}
        place = {x: LEFT + EDGE + s * (width - 2 * EDGE) for x, s in share.items()}
    ends = [0.0] if table.document["minus"] is not None else []
    for name in table.series(panel):
        for x in xs:
            stat = table.stat(panel, name, x, metric)
            if stat is not None:
                spread = stat.deviation or 0.0
                ends += [stat.mean - spread, stat.mean + spread]
            if table.document["along"] == "method":
                ends += table.values(panel, name, x, metric).values()
    ticks = ticks_of(min(ends, default=0.0), max(ends, default=1.0))
    bottom, top = ticks[0], ticks[-1]

    def y_of(value: float) -> float:
        return TOP + HEIGHT * (top - value) / (top - bottom)

    return Axes(place.__getitem__, y_of, xs, ticks, width)


def frame(table: Table, axes: Axes) -> list[str]:
    """Draw the axes with their numbers and names."""
    right, bottom = LEFT + axes.width, TOP + HEIGHT
    parts = []
    for tick in axes.y_ticks:
        y = axes.y_of(tick)
        zero = tick == 0 and table.document["minus"] is not None
        parts.append(
            f'    <path class="{"axis" if zero else "grid"}" d="M{LEFT} {y:.1f}H{right:g}"/>'
        )
        label = f"{tick:g}".replace("-", "−")
        parts.append(f'    <text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{label}</text>')
    parts.append(f'    <path class="axis" d="M{LEFT} {TOP}V{bottom}H{right:g}"/>')
    free = -math.inf
    for value in axes.x_ticks:
        label, x = str(value), axes.x_of(value)
        half = len(label) * CHARACTER / 2
        parts.append(f'    <path class="axis" d="M{x:.1f} {bottom}v4"/>')
        if x - half > free:  # a label that would touch the one before is left out
            parts.append(
                f'    <text class="middle" x="{x:.1f}" y="{bottom + 17}">{escape(label)}</text>'
            )
            free = x + half + 3
    name = escape(table.document["x"])
    middle = LEFT + axes.width / 2
    parts.append(f'    <text class="middle" x="{middle:.1f}" y="{bottom + 36}">{name}</text>')
    return parts
