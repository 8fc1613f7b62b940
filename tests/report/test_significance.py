"""Paired tests and Holm's correction, against hand-worked numbers, loops and scipy."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cpool.errors import MetricError
from cpool.report.results import rows_of
from cpool.report.significance import (
    EXACT,
    compare_with_best,
    final_cells,
    holm,
    paired_test,
)


def p_by_loops(difference: list[float]) -> float:
    """Count the choices of signs one by one."""
    observed, reached, total = abs(sum(difference)), 0, 0
    for signs in itertools.product((1, -1), repeat=len(difference)):
        total += 1
        reached += abs(sum(s * d for s, d in zip(signs, difference, strict=True))) >= (
            observed - 1e-12
        )
    return reached / total


@pytest.mark.parametrize(
    ("difference", "p"),
    [
        ([1.0], 1.0),  # one pair says nothing: both signs are as far from 0
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 2 / 64),  # only all + and all −
        ([1.0, 2.0, -3.0], 1.0),  # the sum is 0
        ([3.0, 2.0, -1.0], 4 / 8),  # |4| or more: ±(3+2+1), ±(3+2−1)
        ([0.0, 0.0, 5.0], 1.0),  # zeros add nothing
        ([0.0, 0.0], 1.0),
    ],
)
def test_the_permutation_test_by_hand(difference: list[float], p: float) -> None:
    assert paired_test(np.array(difference)) == ("permutation", p)


@pytest.mark.parametrize("seed", range(5))
def test_the_permutation_test_is_that_of_loops_and_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Accuracies of 20 samples: many ties, some zeros, and sums that are equal on paper only.
    difference = rng.integers(-3, 5, 9) / 20
    _, p = paired_test(difference)
    assert p == p_by_loops(difference.tolist())
    found = stats.permutation_test(
        (difference, np.zeros(9)),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert p == pytest.approx(found.pvalue)


def test_many_pairs_are_tested_by_signed_ranks() -> None:
    difference = np.random.default_rng(0).normal(0.3, 1, EXACT + 14).round(1)
    name, p = paired_test(difference)
    expected = stats.wilcoxon(difference, zero_method="pratt", method="approx").pvalue
    assert (name, p) == ("wilcoxon", pytest.approx(expected))
    assert paired_test(difference[:EXACT])[0] == "permutation"
    assert paired_test(np.zeros(EXACT + 1)) == ("wilcoxon", 1.0)


def test_the_signed_rank_test_by_hand() -> None:
    # d = 1 … 20: W⁻ = 0, mean 105, variance n(n+1)(2n+1)/24 = 717.5, z = −105/26.786 = −3.920
    _, p = paired_test(np.arange(1.0, 21.0))
    assert p == pytest.approx(2 * stats.norm.cdf(-105 / 717.5**0.5), rel=1e-9)


@pytest.mark.parametrize("bad", [[], [0.1, float("nan")]])
def test_gaps_are_refused(bad: list[float]) -> None:
    with pytest.raises(MetricError, match="at least one difference"):
        paired_test(np.array(bad))


def test_holm_by_hand() -> None:
    # sorted .01 .03 .04: ×3 = .03, ×2 = .06, ×1 = .04 → .06 (never below the one before)
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.02]) == [0.02]


def run(label: str, seed: int, last: list[float | None], **more: Any) -> dict[str, Any]:
    gaps: list[list[float | None]] = [[None] * len(last)] * (len(last) - 1)
    known = [value for value in last if value is not None]
    return {
        "label": label,
        "method": "l2p",
        "seed": seed,
        "accuracy_matrix": [*gaps, last],
        "test_sizes": [10] * len(last),
        "average_accuracy": sum(known) / len(known),
        **more,
    }


def test_rows_are_compared_on_the_cells_that_both_have() -> None:
    runs = [
        run("a", 0, [0.9, 0.8, 0.9]),
        run("a", 1, [0.9, 0.9, 0.9]),
        run("b", 0, [0.8, 0.7, 0.8]),  # the second seed is missing
        run("c", 1, [0.8, 0.7, 0.8], average_accuracy=0.1),
        run("c", 0, [0.7, 0.8, 0.8]),
        run("top", 0, [1.0, 1.0, 1.0], joint=True),
    ]
    rows = rows_of({"runs": runs})
    b, c = compare_with_best(rows)
    assert (b.best, b.other, b.pairs, c.other, c.pairs) == ("a", "b", 3, "c", 6)
    assert b.difference == pytest.approx(0.1)
    # c: differences .2 0 .1 .1 .2 .1: all of one sign but a zero, so 2·2 of 64 reach the sum
    assert (b.p, c.p) == (2 / 8, 4 / 64)
    assert (b.corrected, c.corrected) == (0.25, 0.125)
    assert not c.significant


def test_a_row_without_cells_is_not_tested() -> None:
    bare = {"label": "b", "method": "l2p", "seed": 0, "average_accuracy": 0.5}
    (b,) = compare_with_best(rows_of({"runs": [run("a", 0, [0.9, 0.8]), bare]}))
    assert (b.pairs, b.difference, b.test, b.p, b.corrected, b.significant) == (
        0, None, None, None, None, False,
    )  # fmt: skip
    assert compare_with_best(rows_of({"runs": [{**bare, "average_accuracy": None}]})) == []


def test_a_clear_lead_is_found_and_a_chance_one_is_not(results: dict[str, Any]) -> None:
    found = {c.other: c for c in compare_with_best(rows_of(results))}
    assert found["Linear head"].significant
    a, b = [0.9, 0.8, 0.9, 0.8, 0.9, 0.81], [0.8, 0.9, 0.8, 0.9, 0.8, 0.9]
    (chance,) = compare_with_best(rows_of({"runs": [run("a", 0, a), run("b", 0, b)]}))
    assert not chance.significant
    # +.1, −.1, +.1, −.1, +.1, −.09: most choices of signs are as far from 0 as their sum
    assert chance.p == p_by_loops([x - y for x, y in zip(a, b, strict=True)])
    assert found["Linear head"].corrected == pytest.approx(6 * 2 / 2**15)
    assert "Joint" not in found


def test_a_gap_in_the_last_row_is_no_cell() -> None:
    (row,) = rows_of({"runs": [run("a", 3, [None, 0.5])]})
    assert final_cells(row) == {(3, 1): 0.5}
