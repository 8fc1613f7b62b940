"""The critical-difference diagram (Demšar 2006) as one SVG without script, font or network.

It takes the colour of the text around it, where it stands inside a page, and follows the system's
dark scheme as a file of its own. Every label has a line of its own, so none can overlap.
"""

import math
from collections.abc import Callable
from html import escape

from cpool.report.ranks import Ranking

__all__ = ["critical_difference_svg"]

WIDTH, NARROWEST, ROW, AXIS, CHARACTER = 760, 300, 20, 62, 7.4
STYLE = """\
    .cpool-ranks { color: #1f2933; font-family: system-ui, "Segoe UI", "Helvetica Neue", Arial, \
sans-serif; font-size: 13px; }
    @media (prefers-color-scheme: dark) { .cpool-ranks { color: #e6edf3; } }
    .cpool-ranks text { fill: currentColor; }
    .cpool-ranks path { fill: none; stroke: currentColor; stroke-width: 1.2; }
    .cpool-ranks .group { stroke: #c8662a; stroke-width: 5; stroke-linecap: round; }
    .cpool-ranks .best { font-weight: 700; }
    .cpool-ranks .middle { text-anchor: middle; }
    .cpool-ranks .end { text-anchor: end; }"""


def critical_difference_svg(ranking: Ranking, title: str) -> str:
    """Draw mean ranks on a line, best at the left; a bar joins methods that do not differ.

    Args:
        ranking: from `rank_methods`.
        title: what a screen reader says, before the numbers.
    """
    k = len(ranking.methods)
    labels = [
        f"{name} {mean:.2f}" for name, mean in zip(ranking.methods, ranking.mean, strict=True)
    ]
    margin = max(map(len, labels)) * CHARACTER + 16
    width = round(max(WIDTH, 2 * margin + NARROWEST))
    left, right = margin, width - margin
    top_rank = max(2, k)

    def x_of(rank: int | float) -> float:
        return left + (rank - 1) / (top_rank - 1) * (right - left)

    bars = AXIS + 16 + 11 * len(ranking.groups)
    half = math.ceil(k / 2)
    height = bars + 12 + ROW * half
    parts = [*_axis(x_of, top_rank, left, right), *_distance(ranking, x_of, top_rank)]
    for number, (first, last) in enumerate(ranking.groups):
        y = AXIS + 14 + 11 * number
        start, end = x_of(ranking.mean[first]) - 4, x_of(ranking.mean[last]) + 4
        parts.append(f'  <path class="group" d="M{start:.1f} {y}H{end:.1f}"/>')
    for position, label in enumerate(labels):
        at_left = position < half
        row = position if at_left else k - 1 - position
        parts += _label(
            label, x_of(ranking.mean[position]), bars + 14 + ROW * row, at_left, left, right
        )
    said = f"{escape(title)}. Mean ranks: {escape('; '.join(labels))}."
    return "\n".join(
        [
            f'<svg class="cpool-flow cpool-ranks" xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 0 {width} {height}" role="img" aria-label="{said}">',
            "  <style>",
            STYLE,
            "  </style>",
            *parts,
            "</svg>\n",
        ]
    )


def _axis(x_of: Callable[[int | float], float], top: int, left: float, right: float) -> list[str]:
    step = max(1, math.ceil(top / 15))
    ticks = [rank for rank in range(1, top + 1) if (rank - 1) % step == 0]
    lines = [f'  <path d="M{left:.1f} {AXIS}H{right:.1f}"/>']
    for rank in ticks:
        x = x_of(rank)
        lines.append(f'  <path d="M{x:.1f} {AXIS}v-6"/>')
        lines.append(f'  <text class="middle" x="{x:.1f}" y="{AXIS - 10}">{rank}</text>')
    return lines


def _distance(ranking: Ranking, x_of: Callable[[int | float], float], top: int) -> list[str]:
    """Draw the critical difference above the axis, to its scale."""
    if ranking.critical is None:
        return []
    shown = min(ranking.critical, top - 1)
    start, end = x_of(1), x_of(1 + shown)
    wide = "" if shown == ranking.critical else ", wider than the axis"
    text = f"critical difference {ranking.critical:.2f}{wide}"
    return [
        f'  <path d="M{start:.1f} 24v8M{start:.1f} 28H{end:.1f}M{end:.1f} 24v8"/>',
        f'  <text x="{start:.1f}" y="16">{text}</text>',
    ]


def _label(
    text: str, x: float, y: int | float, at_left: bool, left: float, right: float
) -> list[str]:
    """Draw a line from the axis down to the row of a label, and across to it."""
    edge = left - 6 if at_left else right + 6
    anchor = ' class="end"' if at_left else ""
    place = edge - 4 if at_left else edge + 4
    return [
        f'  <path d="M{x:.1f} {AXIS}V{y:.1f}H{edge:.1f}"/>',
        f'  <text{anchor} x="{place:.1f}" y="{y + 4.5:.1f}">{escape(text)}</text>',
    ]
