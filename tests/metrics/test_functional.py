"""The definitions on matrices worked by hand."""

import re

import numpy as np
import pytest

from cpool.errors import MetricError
from cpool.metrics import functional as f

NAN = np.nan
# Rows: after training task 0, 1, 2; columns: test task 0, 1, 2.
R = [[0.9, 0.3, 0.1], [0.5, 0.8, 0.2], [0.6, 0.4, 0.7]]
SIZES = [10, 20, 70]


def test_average_accuracy_counts_tasks_and_weighted_counts_samples() -> None:
    # (0.6 + 0.4 + 0.7) / 3 = 1.7 / 3
    assert f.average_accuracy(R) == pytest.approx(1.7 / 3)
    # (10·0.6 + 20·0.4 + 70·0.7) / 100 = (6 + 8 + 49) / 100
    assert f.average_accuracy_weighted(R, SIZES) == pytest.approx(0.63)


def test_average_incremental_accuracy() -> None:
    # A = 0.9; (0.5 + 0.8)/2 = 0.65; 1.7/3 = 0.5667. Mean = 2.11667/3
    assert f.average_accuracy_curve(R) == pytest.approx([0.9, 0.65, 1.7 / 3])
    assert f.average_incremental_accuracy(R) == pytest.approx((0.9 + 0.65 + 1.7 / 3) / 3)


def test_forgetting() -> None:
    # task 0: max(0.9, 0.5) − 0.6 = 0.3; task 1: 0.8 − 0.4 = 0.4; mean 0.35
    assert f.forgetting_per_task(R) == pytest.approx([0.3, 0.4])
    assert f.forgetting(R) == pytest.approx(0.35)
    # after task 1: 0.9 − 0.5 = 0.4
    assert f.forgetting_curve(R) == pytest.approx([0.4, 0.35])


def test_forgetting_may_be_negative_since_the_last_row_is_no_bar() -> None:
    # task 0: max(0.5) − 0.75 = −0.25
    assert f.forgetting([[0.5, NAN], [0.75, 0.9]]) == pytest.approx(-0.25)


def test_transfers() -> None:
    # backward: 0.6 − 0.9 = −0.3; 0.4 − 0.8 = −0.4
    assert f.backward_transfer_per_task(R) == pytest.approx([-0.3, -0.4])
    assert f.backward_transfer(R) == pytest.approx(-0.35)
    # forward: R[0,1] − b_1 = 0.3 − 0.1 = 0.2; R[1,2] − b_2 = 0.2 − 0.25 = −0.05
    assert f.forward_transfer_per_task(R, [NAN, 0.1, 0.25]) == pytest.approx([0.2, -0.05])
    assert f.forward_transfer(R, [NAN, 0.1, 0.25]) == pytest.approx(0.075)
    assert f.forward_transfer(R, 0.1) == pytest.approx((0.2 + 0.1) / 2)


def test_learning_accuracy_and_intransigence() -> None:
    # (0.9 + 0.8 + 0.7)/3 = 0.8; joint 0.95, 0.7, 0.9: 0.05, −0.1, 0.2, mean 0.05
    assert f.learning_accuracy(R) == pytest.approx(0.8)
    assert f.intransigence_per_task(R, [0.95, 0.7, 0.9]) == pytest.approx([0.05, -0.1, 0.2])
    assert f.intransigence(R, [0.95, 0.7, 0.9]) == pytest.approx(0.05)


def test_task_curve() -> None:
    assert f.task_curve(R, 1) == pytest.approx([0.8, 0.4])
    with pytest.raises(MetricError, match="between 0 and 2"):
        f.task_curve(R, 3)


def test_only_the_cells_of_the_definition_are_needed() -> None:
    last_row = [[NAN] * 3, [NAN] * 3, [0.6, 0.4, 0.7]]
    assert f.average_accuracy(last_row) == pytest.approx(1.7 / 3)
    assert f.average_accuracy_weighted(last_row, SIZES) == pytest.approx(0.63)
    no_corner = [[0.9, NAN, NAN], [0.5, 0.8, NAN], [0.6, 0.4, NAN]]
    assert f.forgetting(no_corner) == pytest.approx(0.35)
    assert f.backward_transfer(no_corner) == pytest.approx(-0.35)


def gap(t: int, i: int) -> list[list[float]]:
    values = np.array(R)
    values[t, i] = NAN
    return values.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("call", "cell"),
    [
        (lambda: f.average_accuracy(gap(2, 1)), (2, 1)),
        (lambda: f.average_accuracy_weighted(gap(2, 0), SIZES), (2, 0)),
        (lambda: f.average_incremental_accuracy(gap(1, 0)), (1, 0)),
        (lambda: f.forgetting(gap(1, 0)), (1, 0)),
        (lambda: f.forgetting_curve(gap(2, 1)), (2, 1)),
        (lambda: f.backward_transfer(gap(1, 1)), (1, 1)),
        (lambda: f.forward_transfer(gap(1, 2), 0.1), (1, 2)),
        (lambda: f.learning_accuracy(gap(2, 2)), (2, 2)),
        (lambda: f.intransigence(gap(0, 0), 0.9), (0, 0)),
        (lambda: f.task_curve(gap(2, 1), 1), (2, 1)),
    ],
)
def test_a_missing_cell_is_named(call, cell) -> None:  # type: ignore[no-untyped-def]
    t, i = cell
    sentence = f"R[{t}, {i}] (accuracy on task {i} after training task {t}) is missing"
    with pytest.raises(MetricError, match=re.escape(sentence)):
        call()


@pytest.mark.parametrize(
    "metric",
    [f.forgetting, f.forgetting_curve, f.backward_transfer, lambda r: f.forward_transfer(r, 0)],
)
def test_one_task_has_no_forgetting_and_no_transfer(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MetricError, match=r"at least 2 tasks.*not as 0"):
        metric([[0.9]])
    assert f.average_accuracy([[0.9]]) == 0.9


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5, 0.5]], r"square.*shape \(1, 2\)"),
        ([0.5, 0.5], r"shape \(2,\)"),
        ([], "shape"),
        ([[50.0]], r"R\[0, 0\] = 50.*Divide percentages by 100"),
        ([[0.5, 0.1], [0.5, -0.1]], r"R\[1, 1\] = -0.1"),
        ([[np.inf]], r"R\[0, 0\] = inf"),
        ([[0.5], [0.5, 0.5]], "equal length"),
        ([["a"]], "numbers"),
    ],
)
def test_what_is_no_accuracy_matrix_is_refused(matrix: object, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        f.average_accuracy(matrix)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [[10, 20], [10, 20, 0], [10, 20, NAN], "many"])
def test_sizes_must_fit(sizes: object) -> None:
    with pytest.raises(MetricError, match="test sizes"):
        f.average_accuracy_weighted(R, sizes)  # type: ignore[arg-type]


def test_baseline_and_joint_must_fit() -> None:
    with pytest.raises(MetricError, match="baseline of forward transfer: 3 accuracies"):
        f.forward_transfer(R, [0.1, 0.1])
    with pytest.raises(MetricError, match="got task 2 without one"):
        f.forward_transfer(R, [0.1, 0.1, NAN])
    with pytest.raises(MetricError, match="joint accuracy"):
        f.intransigence(R, 95.0)
    with pytest.raises(MetricError, match="got task 0 without one"):
        f.intransigence(R, [NAN, 0.9, 0.9])


def test_the_argument_is_not_changed() -> None:
    values = np.array(R)
    f.forgetting(values)
    assert (values == np.array(R)).all()
