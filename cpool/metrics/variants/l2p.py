"""The metrics of google-research/l2p (`train_continual.py`, lines 846-857).

The ports l2p-pytorch and dualprompt-pytorch (`engine.py`) compute the same, except the learning
accuracy, which they do not have. These codes keep the matrix with tasks as rows and time as
columns, zeros where nothing was measured; the functions here take cpool's R.
"""

import numpy as np

from cpool.metrics import functional
from cpool.metrics._check import Numbers, as_matrix, lower, need, two_tasks

__all__ = ["l2p_average_accuracy", "l2p_backward", "l2p_forgetting", "l2p_learning_accuracy"]


def l2p_average_accuracy(matrix: Numbers) -> float:
    """Average accuracy of google-research/l2p and ports: `mean_i R[T, i]`, the same as cpool's.

    >>> l2p_average_accuracy([[0.5, None], [0.25, 0.75]])
    0.5
    """
    return functional.average_accuracy(matrix)


def l2p_forgetting(matrix: Numbers) -> float:
    """Forgetting of google-research/l2p and ports: the maximum includes the last row.

    `mean_{i<T} (max_{i≤l≤T} R[l, i] − R[T, i])`, never negative.

    Raises:
        MetricError: one task only, or a cell of the lower triangle is missing.

    >>> l2p_forgetting([[0.5, None], [0.75, 0.5]])
    0.0
    """
    values = as_matrix(matrix)
    two_tasks(values, "forgetting")
    last = len(values) - 1
    need(values, [cell for cell in lower(last + 1) if cell != (last, last)], "forgetting")
    return float(np.mean([values[i:, i].max() - values[last, i] for i in range(last)]))


def l2p_backward(matrix: Numbers) -> float:
    """Backward transfer of google-research/l2p and ports: `mean_{i<T} (R[T, i] − R[i, i])`.

    >>> l2p_backward([[0.5, None], [0.75, 0.5]])
    0.25
    """
    return functional.backward_transfer(matrix)


def l2p_learning_accuracy(matrix: Numbers) -> float:
    """Learning accuracy of google-research/l2p (not in the ports): `mean_i R[i, i]`.

    >>> l2p_learning_accuracy([[0.5, None], [0.75, 1.0]])
    0.75
    """
    return functional.learning_accuracy(matrix)
