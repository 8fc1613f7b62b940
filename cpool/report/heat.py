"""Heat maps as HTML tables: numbers that a screen reader reads and a printer prints."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from plotly.colors import sample_colorscale

__all__ = ["HeatCell", "HeatTable", "accuracy_heat", "usage_heat"]

SCALE = "Cividis"  # safe for colour-blind eyes, and monotone in grey
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
    """A table of coloured cells; `summary` says in words what it shows; `wide` ones are narrow-celled."""

    title: str
    summary: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[HeatCell]]]
    wide: bool


def accuracy_heat(title: str, values: Float[np.ndarray, "tasks tasks"], summary: str) -> HeatTable:
    """Colour an accuracy matrix (fractions, NaN = not measured) on the scale of 0 to 100 %."""
    rows = []
    for t, line in enumerate(values):
        cells = []
        for i, value in enumerate(line):
            if np.isnan(value):
                cells.append(HeatCell("", f"task {i} after task {t}: not measured", None, ""))
                continue
            meaning = f"task {i} after learning task {t}: {100 * value:.1f} %"
            text = f"{100 * value:.0f}"
            cells.append(HeatCell(text, meaning, *_colours(float(value)), mark=t == i))
        rows.append((f"after {t}", cells))
    columns = [f"task {i}" for i in range(len(values))]
    return HeatTable(title, summary, "learned", columns, rows, wide=False)


def usage_heat(title: str, counts: Sequence[Sequence[float]], slots: Sequence[str]) -> HeatTable:
    """Colour which share of each task's choices went to each slot; rows are tasks."""
    shares = _shares(counts)
    wide = shares.shape[1] > WIDE
    rows = []
    for task, line in enumerate(shares):
        cells = []
        for slot, share in enumerate(line):
            meaning = f"task {task}, {slots[slot]}: {100 * share:.0f} % of its choices"
            text = "" if wide else f"{100 * share:.0f}"
            cells.append(HeatCell(text, meaning, *_colours(float(share))))
        rows.append((f"task {task}", cells))
    columns = [str(k) for k in range(shares.shape[1])]
    return HeatTable(title, usage_summary(shares, slots), "slot", columns, rows, wide)


def usage_summary(shares: Float[np.ndarray, "tasks slots"], slots: Sequence[str]) -> str:
    """Say in words whom the tasks choose, and warn when they all choose the same slot."""
    idle = int((shares.sum(axis=0) == 0).sum())
    tops = shares.argmax(axis=1)
    chosen = [f"task {t}: {slots[k]} ({100 * shares[t, k]:.0f} %)" for t, k in enumerate(tops[:12])]
    more = f" and {len(tops) - 12} more tasks" if len(tops) > 12 else ""
    text = f"The slot each task chooses most: {'; '.join(chosen)}{more}. "
    text += f"{idle} of {len(slots)} slots are never chosen."
    if len(shares) > 1 and len(slots) > 1 and len(set(tops.tolist())) == 1:
        text += " Every task prefers the same slot: the pool may have collapsed."
    return text


def _shares(counts: Sequence[Sequence[float]]) -> Float[np.ndarray, "tasks slots"]:
    values = np.array(counts, dtype=float)
    total = values.sum(axis=1, keepdims=True)
    return np.divide(values, total, out=np.zeros_like(values), where=total > 0)


def _colours(share: float) -> tuple[str, str]:
    (background,) = sample_colorscale(SCALE, [min(1.0, max(0.0, share))])
    red, green, blue = (float(part) for part in background[4:-1].split(","))
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 130
    return f"rgb({red:.0f} {green:.0f} {blue:.0f})", "#000" if light else "#fff"
