"""What holds for every accuracy matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cpool.metrics import AccuracyMatrix
from cpool.metrics import functional as f
from cpool.metrics import variants as v

unit = st.floats(0, 1, allow_subnormal=False)
matrices = st.integers(2, 6).flatmap(lambda t: arrays(np.float64, (t, t), elements=unit))
TOLERANCE = 1e-9


@given(unit, st.integers(2, 6))
def test_a_constant_matrix_forgets_nothing(value: float, tasks: int) -> None:
    r = np.full((tasks, tasks), value)
    assert f.forgetting(r) == pytest.approx(0, abs=TOLERANCE)
    assert f.backward_transfer(r) == pytest.approx(0, abs=TOLERANCE)
    assert f.average_incremental_accuracy(r) == pytest.approx(value)
    assert v.coda_forgetting(r) == pytest.approx(0, abs=TOLERANCE)


@given(matrices)
def test_backward_transfer_is_minus_avalanches_forgetting(r: np.ndarray) -> None:
    assert f.backward_transfer(r) == pytest.approx(-v.avalanche_stream_forgetting(r), abs=TOLERANCE)
    assert v.avalanche_stream_bwt(r) == pytest.approx(f.backward_transfer(r), abs=TOLERANCE)


@given(matrices)
def test_forgetting_is_ordered_by_what_enters_the_maximum(r: np.ndarray) -> None:
    ours, l2p = f.forgetting(r), v.l2p_forgetting(r)
    stored, full = v.mammoth_forgetting_as_stored(r), v.mammoth_forgetting_full_rows(r)
    assert max(ours, 0) - TOLERANCE <= l2p <= stored + TOLERANCE <= full + 2 * TOLERANCE
    assert v.avalanche_stream_forgetting(r) <= ours + TOLERANCE
    assert -1 <= ours <= 1


@given(matrices)
def test_l2ps_forgetting_is_ours_clipped_task_by_task(r: np.ndarray) -> None:
    clipped = np.maximum(f.forgetting_per_task(r), 0).mean()
    assert v.l2p_forgetting(r) == pytest.approx(clipped, abs=TOLERANCE)


@given(matrices, st.randoms(use_true_random=False))
def test_last_row_metrics_do_not_mind_the_order_of_tasks(r: np.ndarray, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(r)))
    random.shuffle(order)
    permuted, sizes = r[:, order], np.arange(1, len(r) + 1)
    assert f.average_accuracy(permuted) == pytest.approx(f.average_accuracy(r))
    assert f.average_accuracy_weighted(permuted, sizes[order]) == pytest.approx(
        f.average_accuracy_weighted(r, sizes)
    )


@given(matrices)
def test_equal_sizes_make_both_averages_equal(r: np.ndarray) -> None:
    assert f.average_accuracy_weighted(r, [7] * len(r)) == pytest.approx(f.average_accuracy(r))


@given(matrices)
def test_the_part_above_the_diagonal_only_matters_for_forward_transfer(r: np.ndarray) -> None:
    lower = np.where(np.tri(len(r), dtype=bool), r, np.nan)
    for metric in (f.forgetting, f.backward_transfer, f.average_incremental_accuracy):
        assert metric(lower) == metric(r)


@given(matrices)
def test_curves_end_in_their_metric_and_means_agree(r: np.ndarray) -> None:
    assert f.average_accuracy_curve(r)[-1] == pytest.approx(f.average_accuracy(r))
    assert f.forgetting_curve(r)[-1] == f.forgetting(r)
    assert f.intransigence(r, 1.0) == pytest.approx(1 - f.learning_accuracy(r))


@settings(max_examples=30)
@given(matrices)
def test_a_matrix_survives_json(r: np.ndarray) -> None:
    matrix = AccuracyMatrix()
    for (t, i), value in np.ndenumerate(np.where(np.tri(len(r), dtype=bool), r, np.nan)):
        if not np.isnan(value):
            matrix.update(t, i, float(value), n=i + 1)
    again = AccuracyMatrix.from_json(matrix.to_json())
    assert again == matrix
    assert again.summary() == matrix.summary()
