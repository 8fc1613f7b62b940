"""Other libraries' metrics against the numbers their own code gave (tests/golden)."""

from typing import Any

import numpy as np
import pytest

from cpool.errors import MetricError
from cpool.metrics import functional
from cpool.metrics import variants as v

Library = dict[str, Any]
TOLERANCE = 1e-12


def library(reference: Library, start: str) -> Library:
    (key,) = [key for key in reference["results"] if key.startswith(start)]
    return reference["results"][key]  # type: ignore[no-any-return]


def close(value: Any) -> Any:
    return pytest.approx(value, abs=TOLERANCE, rel=0)


def test_l2p(reference: Library, golden_matrix: np.ndarray) -> None:
    want = library(reference, "google-research/l2p")
    curve, forgetting, backward, learning = want.values()
    assert [v.l2p_average_accuracy(golden_matrix[: t + 1, : t + 1]) for t in range(4)] == close(
        curve
    )
    for values, function in (
        (forgetting, v.l2p_forgetting),
        (backward, v.l2p_backward),
        (learning, v.l2p_learning_accuracy),
    ):
        for t, value in values.items():
            stop = int(t) + 1
            assert function(golden_matrix[:stop, :stop]) == close(value)


def test_pilot(reference: Library, golden_matrix: np.ndarray, golden_sizes: np.ndarray) -> None:
    curve, average, forgetting = library(reference, "LAMDA-PILOT").values()
    assert v.pilot_top1_curve(golden_matrix, golden_sizes) == close(curve)
    assert v.pilot_average_accuracy(golden_matrix, golden_sizes) == close(average)
    assert v.pilot_forgetting(golden_matrix) == close(forgetting)


def test_mammoth(
    reference: Library, golden_matrix: np.ndarray, golden_baseline: np.ndarray
) -> None:
    got = [
        v.mammoth_average_accuracy(golden_matrix),
        v.mammoth_backward_transfer(golden_matrix),
        v.mammoth_forgetting(golden_matrix),
        v.mammoth_forgetting_full_rows(golden_matrix),
        v.mammoth_forward_transfer(golden_matrix, golden_baseline),
        v.mammoth_forward_transfer_as_stored(golden_matrix),
        v.mammoth_forgetting_as_stored(golden_matrix),
    ]
    assert got == close(list(library(reference, "mammoth").values()))


def test_continuum(reference: Library, golden_matrix: np.ndarray, golden_sizes: np.ndarray) -> None:
    r = golden_matrix
    shared = [
        v.continuum_accuracy_a(r),
        v.continuum_backward_transfer(r),
        v.continuum_forgetting(r),
        v.continuum_remembering(r),
        v.continuum_positive_backward_transfer(r),
    ]
    end = v.continuum_accuracy(r, golden_sizes)
    seen = v.continuum_average_incremental_accuracy(r, golden_sizes)
    every = v.continuum_average_incremental_accuracy_all(r, golden_sizes)
    forward = v.continuum_forward_transfer(r)
    all_four = list(
        library(reference, "continuum metrics.py (executed), all four test tasks").values()
    )
    only_seen = list(library(reference, "continuum metrics.py (executed), only seen").values())
    assert [end, every, *shared, forward] == close(all_four)
    assert [end, seen, *shared] == close(only_seen)


def test_coda(reference: Library, golden_matrix: np.ndarray) -> None:
    (value,) = library(reference, "CODA-Prompt").values()
    assert v.coda_forgetting(golden_matrix) == close(value)


def avalanche_after(r: np.ndarray, n: np.ndarray, b: np.ndarray, t: int) -> dict[str, float]:
    """Lay this package's values out under the names Avalanche logs after experience t."""
    names: dict[str, float] = {f"Top1_Acc_Exp/Exp{j:03}": r[t, j] for j in range(len(r))}
    for j, value in enumerate(v.avalanche_experience_forgetting(r, t)):
        names[f"ExperienceForgetting/Exp{j:03}"] = value
    for j, value in enumerate(v.avalanche_experience_bwt(r, t)):
        names[f"ExperienceBWT/Exp{j:03}"] = value
    for j, value in v.avalanche_experience_forward_transfer(r, b, t).items():
        names[f"ExperienceForwardTransfer/Exp{j:03}"] = value
    return names | {
        "StreamForgetting": v.avalanche_stream_forgetting(r, t),
        "StreamBWT": v.avalanche_stream_bwt(r, t),
        "StreamForwardTransfer": v.avalanche_stream_forward_transfer(r, b, t),
        "Top1_Acc_Stream": v.avalanche_top1_acc_stream(r, n, t),
    }


@pytest.mark.parametrize("t", range(4))
def test_avalanche(
    reference: Library,
    golden_matrix: np.ndarray,
    golden_sizes: np.ndarray,
    golden_baseline: np.ndarray,
    t: int,
) -> None:
    want = library(reference, "Avalanche 0.6.0")[f"after task {t}"]
    got = avalanche_after(golden_matrix, golden_sizes, golden_baseline, t)
    assert got.keys() == want.keys()
    assert got == close(want)


def test_six_libraries_six_forgettings(golden_matrix: np.ndarray) -> None:
    # task 0: .9 − .5 = .4; task 1: .85 − .7 = .15; task 2: .5 − .75 = −.25; mean .1
    assert functional.forgetting(golden_matrix) == close(0.1)
    # with the last row in the maximum, task 2 counts 0: .55 / 3
    assert v.l2p_forgetting(golden_matrix) == close(0.55 / 3)
    # with the zero-shot .8 of task 2 in it, task 2 counts .05: .6 / 3
    assert v.mammoth_forgetting_as_stored(golden_matrix) == close(0.2)


def test_as_stored_looks_one_task_ahead_and_full_rows_look_at_all() -> None:
    # The best accuracy on task 2 (.9) is in row 0, two tasks before it is learned.
    r = [[0.5, 0.1, 0.9, 0], [0.5, 0.5, 0.6, 0], [0.5, 0.5, 0.4, 0], [0.5, 0.5, 0.3, 1]]
    assert v.mammoth_forgetting(r) == close((0.4 - 0.3) / 3)
    assert v.mammoth_forgetting_as_stored(r) == close((0.6 - 0.3) / 3)
    assert v.mammoth_forgetting_full_rows(r) == close((0.9 - 0.3) / 3)


@pytest.mark.parametrize(
    ("call", "cell"),
    [
        (lambda r: v.l2p_forgetting(r), (3, 1)),
        (lambda r: v.mammoth_forgetting_as_stored(r), (3, 1)),
        (lambda r: v.mammoth_forward_transfer_as_stored(r), (1, 2)),
        (lambda r: v.continuum_accuracy_a(r), (2, 1)),
        (lambda r: v.continuum_backward_transfer(r), (2, 1)),
        (lambda r: v.continuum_average_incremental_accuracy_all(r, [1, 1, 1, 1]), (0, 3)),
        (lambda r: v.coda_forgetting(r), (2, 1)),
        (lambda r: v.avalanche_stream_forgetting(r), (3, 1)),
        (lambda r: v.avalanche_stream_forward_transfer(r, 0.1), (1, 2)),
        (lambda r: v.avalanche_top1_acc_stream(r, [1, 1, 1, 1], 0), (0, 3)),
        (lambda r: v.pilot_top1_curve(r, [1, 1, 1, 1]), (2, 1)),
    ],
)
def test_a_missing_cell_is_named(call, cell, golden_matrix) -> None:  # type: ignore[no-untyped-def]
    golden_matrix[cell] = np.nan
    with pytest.raises(MetricError, match=rf"R\[{cell[0]}, {cell[1]}\] .* is missing"):
        call(golden_matrix)


def test_after_must_be_a_trained_task(golden_matrix: np.ndarray) -> None:
    with pytest.raises(MetricError, match="between 0 and 3"):
        v.avalanche_stream_forgetting(golden_matrix, after=4)


def test_every_variant_cites_its_source() -> None:
    sources = ("google-research/l2p", "LAMDA-PILOT", "mammoth", "continuum", "CODA-Prompt")
    for name in v.__all__:
        doc = getattr(v, name).__doc__
        assert any(source in doc for source in (*sources, "Avalanche")), name
        assert ">>>" in doc, name
