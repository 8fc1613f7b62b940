"""Heat maps as HTML tables: numbers that a screen reader reads and a printer prints."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from plotly.colors import get_colorscale, sample_colorscale

__all__ = ["HeatCell", "HeatTable", "accuracy_heat", "span_of", "usage_heat", "usage_summary"]

SCALE = "Cividis"  # safe for colour-blind eyes, and monotone in grey
_STOPS = get_colorscale(SCALE)  # by name, each lookup would build all scales of plotly anew
WIDE = 24


@dataclass(frozen=True)
class HeatCell:
    """One cell: text (empty in wide tables), what it means, and its colours (None: no value)."""

    text: str
    meaning: str
    background: str | None
    ink: str
    mark: bool = False


@dataclass(frozen=True)
class HeatTable:
    """A table of coloured cells with a text; a `wide` one has many columns and no numbers."""

    title: str
    summary: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[HeatCell]]]
    wide: bool


def accuracy_heat(
    title: str,
    values: Float[np.ndarray, "tasks tasks"],
    summary: str,
    span: tuple[float, float] = (0.0, 1.0),
) -> HeatTable:
    """Colour an accuracy matrix (fractions, NaN = not measured), dark to light over `span`."""
    rows = []
    for t, line in enumerate(values):
        cells = []
        for i, value in enumerate(line):
            if np.isnan(value):
                cells.append(HeatCell("", f"task {i} after task {t}: not measured", None, ""))
                continue
            meaning = f"task {i} after learning task {t}: {100 * value:.1f} %"
            colours = _colours((value - span[0]) / (span[1] - span[0]))
            cells.append(HeatCell(f"{100 * value:.0f}", meaning, *colours, mark=t == i))
        rows.append((f"after {t}", cells))
    columns = [str(i) for i in range(len(values))]
    return HeatTable(title, summary, "task →", columns, rows, wide=False)


def span_of(matrices: Sequence[Float[np.ndarray, "tasks tasks"]]) -> tuple[float, float]:
    """Return the tens of percent around all values, so that matrices share one scale of colours.

    >>> span_of([np.array([[0.93, np.nan], [0.62, 0.9]])])
    (0.6, 1.0)
    """
    known = np.concatenate([m[~np.isnan(m)] for m in matrices] or [np.zeros(0)])
    if not len(known):
        return 0.0, 1.0
    # In whole tens, at least one apart and never past 100 %.
    low = min(int(np.floor(10 * known.min() + 1e-9)), 9)
    high = max(int(np.ceil(10 * known.max() - 1e-9)), low + 1)
    return low / 10, high / 10


def usage_heat(
    title: str, counts: Sequence[Sequence[int | float]], slots: Sequence[str]
) -> HeatTable:
    """Colour which share of each task's choices went to each slot; rows are tasks."""
    shares = _shares(counts)
    wide, most = shares.shape[1] > WIDE, float(shares.max(initial=0.0))
    rows = []
    for task, line in enumerate(shares):
        cells = []
        for slot, share in enumerate(line):
            meaning = f"task {task}, {slots[slot]}: {100 * share:.0f} % of its choices"
            text = "" if wide else f"{100 * share:.0f}"
            cells.append(HeatCell(text, meaning, *_colours(share / most if most else 0.0)))
        rows.append((f"task {task}", cells))
    columns = [str(k) for k in range(shares.shape[1])]
    scale = f" Colours run from 0 % (dark) to {100 * most:.0f} % (light)."
    summary = usage_summary(shares, slots) + scale
    return HeatTable(title, summary, "slot →", columns, rows, wide)


def usage_summary(shares: Float[np.ndarray, "tasks slots"], slots: Sequence[str]) -> str:
    """Say in words whom the tasks choose, and warn when they all choose the same slot.

    A policy that takes every slot alike has no favourite, so it is no collapse.

    >>> usage_summary(np.array([[1.0, 0.0], [0.75, 0.25]]), ["a", "b"])
    'All tasks choose a most (75 to 100 %): the pool may have collapsed. Every slot is chosen.'
    """
    idle = int((shares.sum(axis=0) == 0).sum())
    rest = f"{idle} of {len(slots)} slots are never chosen." if idle else "Every slot is chosen."
    tops, most = shares.argmax(axis=1), shares.max(axis=1)
    if len(slots) == 1:
        return "There is one slot, which all tasks share."
    if np.allclose(shares, 1 / len(slots)):
        return "Every task takes all slots alike."
    if len(shares) > 1 and len(set(tops.tolist())) == 1:
        low, high = f"{100 * most.min():.0f}", f"{100 * most.max():.0f}"
        span = high if low == high else f"{low} to {high}"
        text = f"All tasks choose {slots[tops[0]]} most ({span} %)"
        return f"{text}: the pool may have collapsed. {rest}"
    chosen = [f"task {t}: {slots[k]} ({100 * most[t]:.0f} %)" for t, k in enumerate(tops[:12])]
    more = f" and {len(tops) - 12} more tasks" if len(tops) > 12 else ""
    return f"The slot each task chooses most: {'; '.join(chosen)}{more}. {rest}"


def _shares(counts: Sequence[Sequence[int | float]]) -> Float[np.ndarray, "tasks slots"]:
    values = np.array(counts, dtype=float)
    total = values.sum(axis=1, keepdims=True)
    return np.asarray(values / np.where(total > 0, total, 1))


def _colours(share: float) -> tuple[str, str]:
    (background,) = sample_colorscale(_STOPS, [min(1.0, max(0.0, share))])
    red, green, blue = (float(part) for part in background[4:-1].split(","))
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 130
    return f"rgb({red:.0f} {green:.0f} {blue:.0f})", "#000" if light else "#fff"
