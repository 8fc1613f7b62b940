"""The metrics of LAMDA-PILOT (`trainer.py`, lines 95-142), which prints percent; fractions here."""

import numpy as np
from jaxtyping import Float

from cpool.metrics._check import Numbers, as_matrix, as_sizes, lower, need
from cpool.metrics.variants.l2p import l2p_forgetting

__all__ = ["pilot_average_accuracy", "pilot_forgetting", "pilot_top1_curve"]


def pilot_top1_curve(matrix: Numbers, sizes: Numbers) -> Float[np.ndarray, "tasks"]:
    """Top-1 curve of LAMDA-PILOT: pooled accuracy on all test samples of the classes seen so far.

    `a_t = Σ_{i≤t} n_i R[t, i] / Σ_{i≤t} n_i`

    Raises:
        MetricError: a cell of the lower triangle is missing, or the sizes do not fit.

    >>> pilot_top1_curve([[0.5, None], [0.25, 0.75]], sizes=[10, 30]).tolist()
    [0.5, 0.625]
    """
    values = as_matrix(matrix)
    n = as_sizes(sizes, len(values))
    need(values, lower(len(values)), "the top-1 curve")
    return np.array(
        [np.average(values[t, : t + 1], weights=n[: t + 1]) for t in range(len(values))]
    )


def pilot_average_accuracy(matrix: Numbers, sizes: Numbers) -> float:
    """Average accuracy of LAMDA-PILOT: the mean over time of its pooled top-1 curve.

    >>> pilot_average_accuracy([[0.5, None], [0.25, 0.75]], sizes=[10, 30])
    0.5625
    """
    return float(pilot_top1_curve(matrix, sizes).mean())


def pilot_forgetting(matrix: Numbers) -> float:
    """Forgetting of LAMDA-PILOT: as google-research/l2p, the maximum includes the last row.

    >>> pilot_forgetting([[0.5, None], [0.25, 0.75]])
    0.25
    """
    return l2p_forgetting(matrix)
