"""Is the best method better, or lucky? Paired tests over seeds × tasks, corrected by Holm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from cpool.errors import MetricError
from cpool.report.ranking import best_row
from cpool.report.results import Row

__all__ = [
    "ALPHA",
    "EXACT",
    "Comparison",
    "compare_with_best",
    "final_cells",
    "holm",
    "paired_test",
]

ALPHA = 0.05
EXACT = 16
"""Up to so many pairs all 2ⁿ signs are tried; beyond, the signed-rank test approximates well."""

Test = Literal["permutation", "wilcoxon"]


@dataclass(frozen=True)
class Comparison:
    """The best row against another one.

    Attributes:
        best, other: labels.
        pairs: n, cells (seed, task) that both rows have.
        difference: mean of best − other, a fraction; None without pairs.
        test: which one was made; None without pairs.
        p: two-sided, of this test alone.
        corrected: p after Holm's correction for all comparisons with the best row.
    """

    best: str
    other: str
    pairs: int
    difference: float | None
    test: Test | None
    p: float | None
    corrected: float | None

    @property
    def significant(self) -> bool:
        """Whether the corrected p is below `ALPHA`."""
        return self.corrected is not None and self.corrected < ALPHA


def paired_test(difference: Float[np.ndarray, "n"]) -> tuple[Test, float]:
    """Return the test that fits n paired differences, and its two-sided p.

    Up to `EXACT` pairs a permutation test on the mean: if the two methods are alike, every
    difference could as well have the other sign, so `p` is the share of the 2ⁿ choices of signs
    with `|Σ ±d| ≥ |Σ d|`. That is exact for any n, with ties and zeros too, which the accuracies
    of small test sets have many of (under a change of signs Σ d² stays, so the paired t statistic
    orders the choices in the same way). Beyond, Wilcoxon's signed-rank test (zeros by Pratt,
    normal approximation with ties), which one odd task does not decide.

    Args:
        difference: d [n], of the same seeds and tasks.

    Raises:
        MetricError: no differences, or some that are not finite.

    >>> paired_test(np.array([1.0, 2.0, 3.0]))
    ('permutation', 0.25)
    """
    n = len(difference)
    if not n or not np.isfinite(difference).all():
        raise MetricError(
            expected="at least one difference, all of them finite",
            got=f"{n} of them" if not n else "a gap",
            remedy="Compare rows that have accuracies for the same seeds and tasks.",
        )
    if not np.any(difference):
        return ("permutation" if n <= EXACT else "wilcoxon"), 1.0
    if n > EXACT:
        found = stats.wilcoxon(difference, zero_method="pratt", method="approx")
        return "wilcoxon", float(found.pvalue)
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    sums = np.abs(signs @ difference)
    # Sums that are equal on paper differ in the last bits.
    reached = sums >= abs(difference.sum()) - 1e-9 * np.abs(difference).sum()
    return "permutation", float(reached.mean())


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for m tests (Holm 1979): step k of the sorted ones by m − k.

    `p̃₍ₖ₎ = max_{j ≤ k} min(1, (m − j) p₍ⱼ₎)`, j from 0.

    >>> holm([0.5, 0.25, 0.125])
    [0.5, 0.5, 0.375]
    """
    order = np.argsort(values, kind="stable")
    corrected, highest = [0.0] * len(values), 0.0
    for step, position in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(values) - step) * values[position]))
        corrected[position] = highest
    return corrected


def final_cells(row: Row) -> dict[tuple[int, int], float]:
    """Return the accuracies after the last task, by (seed, task); what is missing is left out."""
    cells = {}
    for run in row.runs:
        last = (run.get("accuracy_matrix") or [[]])[-1]
        for task, accuracy in enumerate(last):
            if accuracy is not None:
                cells[int(run.get("seed", 0)), task] = float(accuracy)
    return cells


def compare_with_best(rows: Sequence[Row]) -> list[Comparison]:
    """Compare the best row with every other one on the same seeds and tasks.

    Upper bounds take no part. The cells of one seed share a model, and those of one task are of
    the same classes, so the pairs are not independent: p describes these seeds and tasks, and
    says nothing of other streams (for which see `cpool.report.ranks`).

    Args:
        rows: of one stream.
    """
    best = best_row(rows)
    if best is None:
        return []
    own, compared = final_cells(best), []
    for row in rows:
        if row is best or row.role == "upper bound":
            continue
        theirs = final_cells(row)
        common = sorted(set(own) & set(theirs))
        difference = np.array([own[cell] - theirs[cell] for cell in common])
        compared.append((row, difference))
    tested = [paired_test(d) if len(d) else None for _, d in compared]
    corrected = iter(holm([found[1] for found in tested if found is not None]))
    return [
        Comparison(
            best.label,
            row.label,
            len(difference),
            float(difference.mean()) if found else None,
            found[0] if found else None,
            found[1] if found else None,
            next(corrected) if found else None,
        )
        for (row, difference), found in zip(compared, tested, strict=True)
    ]
