"""The metrics of mammoth (`utils/metrics.py`), on seen tasks and as its training loop fills them.

mammoth's loop (`utils/training.py`, 200-237) stores for every step the tasks seen so far *and* the
next one, before it is learned; a task's zero-shot accuracy may thus become its best one.
"""

import numpy as np

from cpool.metrics import functional
from cpool.metrics._check import Numbers, as_matrix, need, two_tasks
from cpool.metrics.variants.l2p import l2p_forgetting

__all__ = [
    "mammoth_average_accuracy",
    "mammoth_backward_transfer",
    "mammoth_forgetting",
    "mammoth_forgetting_as_stored",
    "mammoth_forgetting_full_rows",
    "mammoth_forward_transfer",
    "mammoth_forward_transfer_as_stored",
]


def mammoth_average_accuracy(matrix: Numbers) -> float:
    """Mean accuracy of mammoth (`print_mean_accuracy`) at the end: `mean_i R[T, i]`.

    >>> mammoth_average_accuracy([[0.5, None], [0.25, 0.75]])
    0.5
    """
    return functional.average_accuracy(matrix)


def mammoth_backward_transfer(matrix: Numbers) -> float:
    """Backward transfer of mammoth: `mean_{i<T} (R[T, i] − R[i, i])`.

    >>> mammoth_backward_transfer([[0.5, None], [0.25, 0.75]])
    -0.25
    """
    return functional.backward_transfer(matrix)


def mammoth_forgetting(matrix: Numbers) -> float:
    """Forgetting of mammoth on rows of seen tasks: `mean_{i<T} (max_{i≤l≤T} R[l,i] − R[T,i])`.

    >>> mammoth_forgetting([[0.5, None], [0.25, 0.75]])
    0.25
    """
    return l2p_forgetting(matrix)


def mammoth_forgetting_full_rows(matrix: Numbers) -> float:
    """Forgetting of mammoth on complete rows: zero-shot accuracies enter the maximum too.

    `mean_{i<T} (max_{l≤T} R[l, i] − R[T, i])`

    Raises:
        MetricError: one task only, or a cell of the columns i < T is missing.

    >>> mammoth_forgetting_full_rows([[0.5, 0.5, 0.0], [0.5, 0.25, 0.0], [0.5, 0.25, 1.0]])
    0.125
    """
    return _forgetting(matrix, ahead=None)


def mammoth_forgetting_as_stored(matrix: Numbers) -> float:
    """Forgetting of mammoth as its training loop stores the rows: seen tasks plus the next one.

    `mean_{i<T} (max_{i−1≤l≤T} R[l, i] − R[T, i])`

    Raises:
        MetricError: one task only, or a cell of the lower triangle or just above the diagonal
            is missing.

    >>> mammoth_forgetting_as_stored([[0.5, 0.5, None], [0.5, 0.25, 0.0], [0.5, 0.25, 1.0]])
    0.125
    """
    return _forgetting(matrix, ahead=1)


def mammoth_forward_transfer(matrix: Numbers, random_results: Numbers) -> float:
    """Forward transfer of mammoth: `mean_{i>0} (R[i−1, i] − random_i)`.

    >>> mammoth_forward_transfer([[0.5, 0.25], [0.25, 0.75]], random_results=[0.1, 0.125])
    0.125
    """
    return functional.forward_transfer(matrix, random_results)


def mammoth_forward_transfer_as_stored(matrix: Numbers) -> float:
    """Forward transfer of mammoth as its training loop fills the inputs: always 0.

    The loop measures its "random" baseline of task i with the model trained up to task i − 1, at
    the same moment as `R[i−1, i]`, so `R[i−1, i] − random_i` vanishes.

    >>> mammoth_forward_transfer_as_stored([[0.5, 0.25], [0.25, 0.75]])
    0.0
    """
    values = as_matrix(matrix)
    two_tasks(values, "forward transfer")
    ahead = np.concatenate([[np.nan], np.diag(values, k=1)])
    need(values, [(i - 1, i) for i in range(1, len(values))], "forward transfer")
    return functional.forward_transfer(values, ahead)


def _forgetting(matrix: Numbers, ahead: int | None) -> float:
    """Forgetting with the maximum from `ahead` rows before the task on (None: from row 0)."""
    values = as_matrix(matrix)
    two_tasks(values, "forgetting")
    last = len(values) - 1
    first = [0 if ahead is None else max(0, i - ahead) for i in range(last)]
    need(values, [(t, i) for i in range(last) for t in range(first[i], last + 1)], "forgetting")
    return float(np.mean([values[first[i] :, i].max() - values[last, i] for i in range(last)]))
