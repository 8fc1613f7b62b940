"""Accuracy against cost, one named mark a row: an SVG without script, font or network."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from benchmarks.study_axes import BOTTOM, CHARACTER, HEIGHT, LEFT, TOP, ticks_of
from benchmarks.study_plot import COLOURS, MARKS, STYLE
from cpool.report.results import Stat

__all__ = ["Mark", "cost_svg"]

TALL, WIDTH, RIGHT, LEGEND = HEIGHT + 90, 760.0, 14.0, 34.0
SIZE = 11  # of a name, whose letters are narrower than those of the axes
LETTER = CHARACTER * SIZE / 12 * 0.92


class Mark(NamedTuple):
    """A row of the table: its name, its kind, what it cost, and its accuracy in percent."""

    name: str
    kind: str
    cost: float
    accuracy: Stat


class Box(NamedTuple):
    """A rectangle on the picture."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Tell whether two rectangles overlap."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.bottom <= other.top or other.bottom <= self.top)


def cost_svg(marks: Sequence[Mark], axis: str, title: str, units: Mapping[float, str]) -> str:
    """Draw marks over the logarithm of their cost.

    Args:
        marks: with costs above 0.
        axis: what the horizontal axis shows.
        title: for who cannot see the picture.
        units: cost → what stands below the axis there.
    """
    low, high = min(m.cost for m in marks), max(m.cost for m in marks)
    left, right = LEFT + 20, LEFT + WIDTH - 130  # names stand to the right of marks

    def x_of(cost: float) -> float:
        return left + (right - left) * math.log(cost / low) / (math.log(high / low) or 1.0)

    ends = [m.accuracy.mean + s * (m.accuracy.deviation or 0.0) for m in marks for s in (-1, 1)]
    ticks = ticks_of(min(ends) - 3, min(max(ends), 100.0))
    bottom, top = ticks[0], ticks[-1]

    def y_of(value: float) -> float:
        return TOP + TALL * (top - value) / (top - bottom)

    base = TOP + TALL
    parts = ['  <text x="8" y="16">accuracy, %</text>']
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'  <path class="grid" d="M{LEFT} {y:.1f}H{LEFT + WIDTH:g}"/>')
        parts.append(f'  <text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{tick:g}</text>')
    parts.append(f'  <path class="axis" d="M{LEFT} {TOP}V{base}H{LEFT + WIDTH:g}"/>')
    for cost, said in units.items():
        if low / 1.5 <= cost <= high * 1.5:
            parts.append(f'  <path class="axis" d="M{x_of(cost):.1f} {base}v4"/>')
            parts.append(
                f'  <text class="middle" x="{x_of(cost):.1f}" y="{base + 17}">{escape(said)}</text>'
            )
    parts.append(
        f'  <text class="middle" x="{LEFT + WIDTH / 2}" y="{base + 36}">{escape(axis)}</text>'
    )
    kinds = list(dict.fromkeys(mark.kind for mark in marks))
    places = {mark.name: (x_of(mark.cost), y_of(mark.accuracy.mean)) for mark in marks}
    taken = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in places.values()]
    # From the top down, so that names of neighbours keep their order.
    for mark in sorted(marks, key=lambda mark: -mark.accuracy.mean):
        x, y = places[mark.name]
        number = kinds.index(mark.kind)
        colour = COLOURS[number]
        if mark.accuracy.deviation:
            spread = [y_of(mark.accuracy.mean + s * mark.accuracy.deviation) for s in (1, -1)]
            parts.append(
                f'  <path class="bar" stroke="{colour}" opacity="0.5" '
                f'd="M{x:.1f} {spread[0]:.1f}V{spread[1]:.1f}"/>'
            )
        parts.append(
            f'  <path class="mark" fill="{colour}" d="{MARKS[number]}" '
            f'transform="translate({x:.1f} {y:.1f})"/>'
        )
        anchor, at, line = _named(mark.name, x, y, taken)
        parts.append(
            f'  <text class="name" style="font-size: {SIZE}px" text-anchor="{anchor}" '
            f'x="{at:.1f}" y="{line:.1f}">{escape(mark.name)}</text>'
        )
    place = float(LEFT)
    for number, kind in enumerate(kinds):
        y = base + BOTTOM + 10
        parts.append(
            f'  <path fill="{COLOURS[number]}" d="{MARKS[number]}" '
            f'transform="translate({place + 6:g} {y:g})"/>'
        )
        parts.append(f'  <text x="{place + 18:g}" y="{y + 4:g}">{escape(kind)}</text>')
        place += 36 + len(kind) * LETTER * 12 / SIZE
    said = "; ".join(f"{m.name} {m.accuracy.mean:.1f} % at {m.cost:.3g}" for m in marks)
    return "\n".join(
        [
            f'<svg class="cpool-flow cpool-study" xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 0 {LEFT + WIDTH + RIGHT:g} {base + BOTTOM + LEGEND:g}" role="img" '
            f'aria-label="{escape(f"{title}: {said}.")}">',
            "  <style>",
            STYLE,
            "  </style>",
            *parts,
            "</svg>\n",
        ]
    )


def _named(name: str, x: float, y: float, taken: list[Box]) -> tuple[str, float, float]:
    """Return where a name stands: the nearest place that is free, which it takes."""
    wide = len(name) * LETTER
    tries: list[tuple[str, float, float]] = []
    for down in (0, 9, -9, 16, -16, 24, -24, 32, -32, 40, -40):
        tries += [("start", x + 9, y + 4 + down), ("end", x - 9, y + 4 + down)]
    for anchor, at, line in tries:
        start = at if anchor == "start" else at - wide
        box = Box(start, line - SIZE + 1, start + wide, line + 2)
        inside = (
            box.left > LEFT and box.right < LEFT + WIDTH + RIGHT and box.bottom < TOP + TALL - 1
        )
        if inside and not any(box.meets(other) for other in taken):
            break
    taken.append(box)
    return anchor, at, line
