"""What the pictures show, in words: the headline, and a text for every picture."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cpool.report import text
from cpool.report.plots import cost_of, curve_of
from cpool.report.ranking import CLOSE, best_row, marks, ordered
from cpool.report.results import Row

__all__ = ["cost_summary", "curves_summary", "headline", "matrix_summary"]


def headline(rows: Sequence[Row]) -> list[str]:
    """Say who wins, by how much, and what it costs; one sentence an entry."""
    best = best_row(rows)
    stat = best.stat("average_accuracy") if best else None
    if best is None or stat is None:
        return ["No method of this run has an average accuracy yet."]
    seeds = f" over {stat.n} seeds" if stat.n > 1 else " (one seed)"
    lines = [f"{best.label} is best: {text.with_deviation(stat)} % average accuracy{seeds}."]
    if best.role == "baseline":
        lines.append(
            "It is a baseline without prompts: no method with prompts does better on this stream."
        )
    lines += [_lead(rows, best), _gap(rows, stat.mean), _price(best)]
    return [line for line in lines if line]


def _lead(rows: Sequence[Row], best: Row) -> str:
    others = [row for row in ordered(rows) if row.role != "upper bound" and row is not best]
    top, second = best.stat("average_accuracy"), others[0] if others else None
    stat = second.stat("average_accuracy") if second else None
    if top is None or second is None or stat is None:
        return ""
    close = [row.label for row in others if marks(rows).get((row.run, row.label)) == CLOSE]
    lead = f"It is {100 * (top.mean - stat.mean):.2f} points ahead of {second.label}"
    return f"{lead}, within one deviation: no clear winner." if close else f"{lead}."


def _gap(rows: Sequence[Row], top: float) -> str:
    bounds = [row for row in rows if row.role == "upper bound"]
    stats = [(row.label, stat) for row in bounds if (stat := row.stat("average_accuracy"))]
    if not stats:
        return ""
    label, bound = max(stats, key=lambda pair: pair[1].mean)
    gap = 100 * (bound.mean - top)
    side = "below" if gap >= 0 else "above"
    return f"That is {abs(gap):.2f} points {side} {label}, which sees all tasks at once."


def _price(row: Row) -> str:
    forgetting, size = row.stat("forgetting"), row.stat("bytes_per_task")
    train, ms = row.stat("train_seconds"), row.milliseconds()
    parts = [
        f"forgets {text.points(forgetting)} points" if forgetting else "",
        f"stores {text.size(size.mean)} a task" if size else "",
        f"trains in {text.plain(train.mean)} s" if train else "",
        f"predicts a sample in {text.plain(ms.mean)} ms" if ms else "",
    ]
    known = [part for part in parts if part]
    return f"{row.label} {', '.join(known)}." if known else ""


def curves_summary(rows: Sequence[Row]) -> str:
    """Say where every curve starts and ends."""
    parts, bounds = [], []
    for row in rows:
        curve, stat = curve_of(row), row.stat("average_accuracy")
        if curve is not None:
            parts.append(f"{row.label} from {100 * curve[0][0]:.1f} to {100 * curve[0][-1]:.1f}")
        elif row.role == "upper bound" and stat is not None:
            bounds.append(f"{row.label}, the upper bound, is at {100 * stat.mean:.1f}")
    if not parts:
        return "No row has the accuracies after each task."
    tail = f" {'; '.join(bounds)}." if bounds else ""
    return f"Accuracy in percent from the first task to the last: {'; '.join(parts)}.{tail}"


def cost_summary(rows: Sequence[Row]) -> str:
    """Say what every row costs and forgets, cheapest first, and which have no place in the plot."""
    shown = [(cost, row) for row in rows if (cost := cost_of(row)) and row.stat("forgetting")]
    parts = [
        f"{row.label} {text.size(cost)} and {text.points(row.stat('forgetting'))} points"
        for cost, row in sorted(shown, key=lambda pair: pair[0])
    ]
    missing = [row.label for row in rows if not (cost_of(row) and row.stat("forgetting"))]
    tail = (
        f" Not drawn, for want of one of the two numbers: {', '.join(missing)}." if missing else ""
    )
    if not parts:
        return f"No row has both numbers.{tail}"
    return f"Bytes a task and forgetting, cheapest first: {'; '.join(parts)}.{tail}"


def matrix_summary(values: Float[np.ndarray, "tasks tasks"]) -> str:
    """Say how well tasks are learned, how well kept, and which one loses most."""
    last, diagonal = values[-1], np.diag(values)
    if np.isnan(last).any():
        return "The last row is not complete."
    end = f"Ends at {100 * last.mean():.1f} % on average"
    if np.isnan(diagonal).any():
        return f"{end}; nothing was measured in between."
    loss = diagonal - last
    worst = int(loss.argmax())
    text_ = f"Learned at {100 * diagonal.mean():.1f} % on average. {end}."
    if len(values) > 1 and loss[worst] > 0:
        before, after = 100 * diagonal[worst], 100 * last[worst]
        text_ += f" Task {worst} loses most: {before:.1f} to {after:.1f} %."
    return text_
