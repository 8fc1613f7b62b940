"""The metrics of Avalanche 0.6.0 (`avalanche/evaluation/metrics/`).

They suppose that the whole test stream is evaluated after each experience. Every function
takes `after`, the task just trained (default the last), since Avalanche emits its values after each
experience. Nothing of Avalanche is imported.
"""

import numpy as np

from cpool.metrics._check import Numbers, as_matrix, as_row, as_sizes, need, upto

__all__ = [
    "avalanche_experience_bwt",
    "avalanche_experience_forgetting",
    "avalanche_experience_forward_transfer",
    "avalanche_stream_bwt",
    "avalanche_stream_forgetting",
    "avalanche_stream_forward_transfer",
    "avalanche_top1_acc_stream",
]


def avalanche_experience_forgetting(matrix: Numbers, after: int | None = None) -> list[float]:
    """ExperienceForgetting of Avalanche for every experience i < `after`; not based on a maximum.

    `R[i, i] − R[after, i]` (`forgetting_bwt.py`)

    Raises:
        MetricError: a cell of the diagonal or of row `after` is missing.

    >>> avalanche_experience_forgetting([[0.75, None], [0.5, 0.9]])
    [0.25]
    """
    values, row = upto(as_matrix(matrix), after)
    need(values, [c for i in range(row) for c in ((i, i), (row, i))], "Avalanche's forgetting")
    return [float(values[i, i] - values[row, i]) for i in range(row)]


def avalanche_stream_forgetting(matrix: Numbers, after: int | None = None) -> float:
    """StreamForgetting of Avalanche: mean of ExperienceForgetting; 0.0 after the first one.

    >>> avalanche_stream_forgetting([[0.75, None], [0.5, 0.9]])
    0.25
    """
    values = avalanche_experience_forgetting(matrix, after)
    return float(np.mean(values)) if values else 0.0  # Avalanche emits 0 where nothing was


def avalanche_experience_bwt(matrix: Numbers, after: int | None = None) -> list[float]:
    """ExperienceBWT of Avalanche for every experience i < `after`: minus ExperienceForgetting.

    >>> avalanche_experience_bwt([[0.75, None], [0.5, 0.9]])
    [-0.25]
    """
    return [-value for value in avalanche_experience_forgetting(matrix, after)]


def avalanche_stream_bwt(matrix: Numbers, after: int | None = None) -> float:
    """StreamBWT of Avalanche: minus StreamForgetting; 0.0 after the first experience.

    >>> avalanche_stream_bwt([[0.75, None], [0.5, 0.9]])
    -0.25
    """
    return 0.0 - avalanche_stream_forgetting(matrix, after)


def avalanche_experience_forward_transfer(
    matrix: Numbers, baseline: Numbers, after: int | None = None
) -> dict[int, float]:
    """ExperienceForwardTransfer of Avalanche, by experience, for those known after `after`.

    `R[j−1, j] − b_j` for 1 ≤ j ≤ after + 1 (`forward_transfer.py`), b_j before any training.

    Raises:
        MetricError: a cell just above the diagonal or a baseline is missing.

    >>> avalanche_experience_forward_transfer([[0.75, 0.25], [0.5, 0.9]], [0.1, 0.125])
    {1: 0.125}
    """
    values, row = upto(as_matrix(matrix), after)
    base = as_row(baseline, len(values), "baseline of forward transfer")
    known = range(1, min(row + 1, len(values) - 1) + 1)
    need(values, [(j - 1, j) for j in known], "Avalanche's forward transfer")
    return {j: float(values[j - 1, j] - base[j]) for j in known}


def avalanche_stream_forward_transfer(
    matrix: Numbers, baseline: Numbers, after: int | None = None
) -> float:
    """StreamForwardTransfer of Avalanche: mean of ExperienceForwardTransfer; 0.0 where none is.

    >>> avalanche_stream_forward_transfer([[0.75, 0.25], [0.5, 0.9]], [0.1, 0.125])
    0.125
    """
    values = avalanche_experience_forward_transfer(matrix, baseline, after)
    return float(np.mean(list(values.values()))) if values else 0.0


def avalanche_top1_acc_stream(matrix: Numbers, sizes: Numbers, after: int | None = None) -> float:
    """Top1_Acc_Stream of Avalanche: pooled over the whole test stream, unseen tasks included.

    `Σ_i n_i R[after, i] / Σ_i n_i` (`accuracy.py`)

    Raises:
        MetricError: a cell of row `after` is missing, or the sizes do not fit.

    >>> avalanche_top1_acc_stream([[0.5, 0.25], [0.25, 0.75]], sizes=[10, 30], after=0)
    0.3125
    """
    values, row = upto(as_matrix(matrix), after)
    need(values, [(row, i) for i in range(len(values))], "Top1_Acc_Stream")
    return float(np.average(values[row], weights=as_sizes(sizes, len(values))))
