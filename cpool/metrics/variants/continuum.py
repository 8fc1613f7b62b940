"""The metrics of continuum (`continuum/metrics/metrics.py`)."""

import numpy as np

from cpool.metrics import functional
from cpool.metrics._check import Numbers, as_matrix, as_sizes, lower, need, two_tasks
from cpool.metrics.variants.pilot import pilot_top1_curve

__all__ = [
    "continuum_accuracy",
    "continuum_accuracy_a",
    "continuum_average_incremental_accuracy",
    "continuum_average_incremental_accuracy_all",
    "continuum_backward_transfer",
    "continuum_forgetting",
    "continuum_forward_transfer",
    "continuum_positive_backward_transfer",
    "continuum_remembering",
]


def continuum_accuracy(matrix: Numbers, sizes: Numbers) -> float:
    """Accuracy of continuum at the end: pooled over samples, `Σ n_i R[T, i] / Σ n_i`.

    >>> continuum_accuracy([[0.5, None], [0.25, 0.75]], sizes=[10, 30])
    0.625
    """
    return functional.average_accuracy_weighted(matrix, sizes)


def continuum_average_incremental_accuracy(matrix: Numbers, sizes: Numbers) -> float:
    """Average incremental accuracy of continuum when only seen tasks are evaluated (pooled).

    >>> continuum_average_incremental_accuracy([[0.5, None], [0.25, 0.75]], sizes=[10, 30])
    0.5625
    """
    return float(pilot_top1_curve(matrix, sizes).mean())


def continuum_average_incremental_accuracy_all(matrix: Numbers, sizes: Numbers) -> float:
    """Average incremental accuracy of continuum when all tasks are evaluated every time (pooled).

    `mean_t (Σ_i n_i R[t, i] / Σ_i n_i)`, tasks that are still to come included.

    Raises:
        MetricError: any cell is missing, or the sizes do not fit.

    >>> continuum_average_incremental_accuracy_all([[0.5, 0.5], [0.25, 0.75]], sizes=[10, 30])
    0.5625
    """
    values = as_matrix(matrix)
    n = as_sizes(sizes, len(values))
    every = [(t, i) for t in range(len(values)) for i in range(len(values))]
    need(values, every, "accuracy over all tasks")
    return float(np.mean(np.average(values, axis=1, weights=n)))


def continuum_accuracy_a(matrix: Numbers) -> float:
    """Accuracy A of continuum: the mean of the lower triangle with the diagonal.

    `Σ_{i≤t} R[t, i] / (T(T+1)/2)` for T tasks.

    Raises:
        MetricError: a cell of the lower triangle is missing.

    >>> continuum_accuracy_a([[0.5, None], [0.25, 0.75]])
    0.5

    Reference: Díaz-Rodríguez et al., Don't forget, there is more than forgetting, 2018.
    """
    values = as_matrix(matrix)
    need(values, lower(len(values)), "accuracy A")
    return float(np.mean([values[cell] for cell in lower(len(values))]))


def continuum_backward_transfer(matrix: Numbers) -> float:
    """Backward transfer of continuum: the mean over all t > i, not only the last row.

    `mean_{t>i} (R[t, i] − R[i, i])`

    Raises:
        MetricError: one task only, or a cell of the lower triangle is missing.

    >>> continuum_backward_transfer([[0.5, None], [0.25, 0.75]])
    -0.25
    """
    values = as_matrix(matrix)
    two_tasks(values, "backward transfer")
    cells = lower(len(values))
    need(values, [c for c in cells if c != (len(values) - 1,) * 2], "backward transfer")
    return float(np.mean([values[t, i] - values[i, i] for t, i in cells if i < t]))


def continuum_positive_backward_transfer(matrix: Numbers) -> float:
    """Positive backward transfer of continuum: `max(0, BWT)` of its own BWT.

    >>> continuum_positive_backward_transfer([[0.5, None], [0.25, 0.75]])
    0.0
    """
    return max(0.0, continuum_backward_transfer(matrix))


def continuum_remembering(matrix: Numbers) -> float:
    """Remembering of continuum: `1 − |min(0, BWT)|` of its own BWT.

    >>> continuum_remembering([[0.5, None], [0.25, 0.75]])
    0.75
    """
    return 1.0 - abs(min(0.0, continuum_backward_transfer(matrix)))


def continuum_forgetting(matrix: Numbers) -> float:
    """Forgetting of continuum: the maximum leaves the last row out, the same as cpool's.

    >>> continuum_forgetting([[0.5, None], [0.75, 0.5]])
    -0.25
    """
    return functional.forgetting(matrix)


def continuum_forward_transfer(matrix: Numbers) -> float:
    """Forward transfer of continuum: `mean_{i>0} R[i−1, i]`, no baseline subtracted.

    >>> continuum_forward_transfer([[0.5, 0.25], [0.75, 0.5]])
    0.25
    """
    return functional.forward_transfer(matrix, 0.0)
