"""The forgetting of CODA-Prompt (`utils/calc_forgetting.py`)."""

import numpy as np

from cpool.metrics._check import Numbers, as_matrix, lower, need, two_tasks

__all__ = ["coda_forgetting"]


def coda_forgetting(matrix: Numbers) -> float:
    """Forgetting of CODA-Prompt (`calc_forgetting`): the loss from one step to the next.

    `mean_{t≥1} mean_{i<t} (R[t−1, i] − R[t, i])`: no maximum, and not the loss up to the end. It is
    about as many times smaller than the others as there are tasks, so it compares with itself only.

    Raises:
        MetricError: one task only, or a cell of the lower triangle is missing.

    >>> coda_forgetting([[0.75, None, None], [0.5, 0.5, None], [0.25, 0.25, 0.9]])
    0.25
    """
    values = as_matrix(matrix)
    two_tasks(values, "forgetting")
    last = len(values) - 1
    need(values, [c for c in lower(last + 1) if c != (last, last)], "CODA-Prompt's forgetting")
    steps = [np.mean(values[t - 1, :t] - values[t, :t]) for t in range(1, last + 1)]
    return float(np.mean(steps))
