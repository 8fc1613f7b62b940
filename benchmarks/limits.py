"""What a table cannot say: upper bounds that rows are ahead of, and tests of too few pairs."""

from collections.abc import Sequence

from cpool.report.results import Row
from cpool.report.significance import ALPHA, EXACT

__all__ = ["few_pairs", "loose_bounds"]


def loose_bounds(rows: Sequence[Row]) -> str | None:
    """Name the upper bounds that other rows are ahead of, with their epochs; None without any.

    Args:
        rows: of one stream.
    """
    means = {row.label: 100 * stat.mean for row in rows if (stat := row.stat("average_accuracy"))}
    bounds = [row for row in rows if row.role == "upper bound" and row.label in means]
    others = [means[row.label] for row in rows if row.role != "upper bound" and row.label in means]
    said = []
    for row in bounds:
        ahead = sum(mean > means[row.label] for mean in others)
        if ahead:
            epochs = (row.runs[0].get("train") or {}).get("epochs")
            trained = "" if epochs is None else f" after {epochs} epoch{'s' * (epochs > 1)}"
            said.append(
                f"`{row.label}` ({means[row.label]:.2f}{trained}) is behind {ahead} of "
                f"{len(others)} rows"
            )
    if not said:
        return None
    return (
        f"Called an upper bound, but none here: {'; '.join(said)}. A joint row is as good as its "
        "own method and its epochs, and does not say what the model could learn."
    )


def few_pairs(pairs: int, comparisons: int) -> str | None:
    """Say that no difference of so few pairs can be parted; None where one can.

    The exact test of n pairs gives p ≥ 2 / 2ⁿ, and Holm's correction multiplies the smallest p by
    the number of comparisons.

    Args:
        pairs: n, seeds × tasks.
        comparisons: rows that are compared with the best one.

    >>> few_pairs(15, 30) is None
    True
    """
    if not pairs or not comparisons or pairs > EXACT:
        return None
    least = 2.0 ** (1 - pairs)
    if comparisons * least < ALPHA:
        return None
    return (
        f"Seeds × tasks are {pairs} pairs here: the test cannot give less than p = {least:.2g}, "
        f"before the correction for {comparisons} rows. So it parts no two rows, however far they "
        "lie apart, and ≈ says nothing."
    )
