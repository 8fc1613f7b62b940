"""The metrics as cpool defines them: pure functions of the accuracy matrix.

`R[t, i]` is the accuracy on the test data of task i after training task t, a fraction in [0, 1];
NaN (or None) where nothing was measured. T is the last task. A metric asks only for the cells it
uses and names the first one that is missing. `cpool.metrics.variants` has other libraries' own.
"""

import numpy as np

from cpool.metrics._check import Numbers, as_matrix, as_sizes, need
from cpool.metrics.per_task import (
    average_accuracy_curve,
    backward_transfer_per_task,
    forgetting_curve,
    forgetting_per_task,
    forward_transfer_per_task,
    intransigence_per_task,
    task_curve,
)

__all__ = [
    "average_accuracy",
    "average_accuracy_curve",
    "average_accuracy_weighted",
    "average_incremental_accuracy",
    "backward_transfer",
    "backward_transfer_per_task",
    "forgetting",
    "forgetting_curve",
    "forgetting_per_task",
    "forward_transfer",
    "forward_transfer_per_task",
    "intransigence",
    "intransigence_per_task",
    "learning_accuracy",
    "task_curve",
]


def average_accuracy(matrix: Numbers) -> float:
    """Average accuracy at the end, every task counting the same.

    `A_T = mean_i R[T, i]`

    Args:
        matrix: R [tasks, tasks], fractions; needs the last row only, so that it also serves a
            joint upper bound, which has no other row.

    Raises:
        MetricError: a cell of the last row is missing, or R is not valid.

    >>> average_accuracy([[None, None], [0.5, 0.75]])
    0.625

    Reference: Lopez-Paz and Ranzato, Gradient Episodic Memory, NeurIPS 2017.
    """
    values = as_matrix(matrix)
    last = len(values) - 1
    need(values, [(last, i) for i in range(last + 1)], "average accuracy")
    return float(values[last].mean())


def average_accuracy_weighted(matrix: Numbers, sizes: Numbers) -> float:
    """Average accuracy at the end, every test sample counting the same (pooled accuracy).

    `Σ_i n_i R[T, i] / Σ_i n_i`

    Args:
        matrix: R [tasks, tasks]; needs the last row only.
        sizes: n [tasks], test samples of each task.

    Raises:
        MetricError: a cell of the last row is missing, or the sizes do not fit.

    >>> average_accuracy_weighted([[0.9, None], [0.5, 0.75]], sizes=[10, 30])
    0.6875
    """
    values = as_matrix(matrix)
    last = len(values) - 1
    need(values, [(last, i) for i in range(last + 1)], "sample-weighted average accuracy")
    return float(np.average(values[last], weights=as_sizes(sizes, last + 1)))


def average_incremental_accuracy(matrix: Numbers) -> float:
    """Mean over time of the average accuracy on the tasks seen so far.

    `Ā = mean_t A_t`, `A_t = mean_{i≤t} R[t, i]`

    Raises:
        MetricError: a cell of the lower triangle is missing, or R is not valid.

    >>> average_incremental_accuracy([[0.75, None], [0.5, 0.75]])
    0.6875

    Reference: Rebuffi et al., iCaRL, CVPR 2017.
    """
    return float(average_accuracy_curve(matrix).mean())


def forgetting(matrix: Numbers) -> float:
    """Mean forgetting at the end: best accuracy before the last task, minus the final one.

    `F_T = mean_{i<T} (max_{i≤l<T} R[l, i] − R[T, i])`

    The maximum leaves the last row out, so that F can be negative: the earlier tasks are then
    better at the end than they ever were. Many codes let it in, which clips every term at 0.

    Raises:
        MetricError: one task only, or a cell is missing (all of the lower triangle is needed
            except `R[T, T]`).

    >>> forgetting([[0.75, None], [0.5, 0.9]])
    0.25

    Reference: Chaudhry et al., Riemannian Walk, ECCV 2018, equation 3.
    """
    return float(forgetting_per_task(matrix).mean())


def backward_transfer(matrix: Numbers) -> float:
    """Mean change of the earlier tasks since each was learned; negative means it was lost.

    `BWT = mean_{i<T} (R[T, i] − R[i, i])`

    Raises:
        MetricError: one task only, or a cell of the diagonal or the last row is missing.

    >>> backward_transfer([[0.75, None], [0.5, 0.9]])
    -0.25

    Reference: Lopez-Paz and Ranzato, Gradient Episodic Memory, NeurIPS 2017.
    """
    return float(backward_transfer_per_task(matrix).mean())


def forward_transfer(matrix: Numbers, baseline: Numbers) -> float:
    """Mean gain on a task before it was trained, over an untrained model.

    `FWT = mean_{i>0} (R[i−1, i] − b_i)`

    Args:
        matrix: R [tasks, tasks]; needs the cells just above the diagonal.
        baseline: b [tasks] or one number, accuracy of an untrained model.

    Raises:
        MetricError: one task only, or a needed cell or baseline is missing.

    >>> forward_transfer([[0.75, 0.25], [0.5, 0.9]], baseline=0.125)
    0.125

    Reference: Lopez-Paz and Ranzato, Gradient Episodic Memory, NeurIPS 2017.
    """
    return float(forward_transfer_per_task(matrix, baseline).mean())


def learning_accuracy(matrix: Numbers) -> float:
    """Mean accuracy on each task just after it was learned: can the method learn at all.

    `LA = mean_i R[i, i]`

    Raises:
        MetricError: a cell of the diagonal is missing, or R is not valid.

    >>> learning_accuracy([[0.75, None], [0.5, 0.5]])
    0.625

    Reference: Riemer et al., Meta-Experience Replay, ICLR 2019.
    """
    values = as_matrix(matrix)
    need(values, [(i, i) for i in range(len(values))], "learning accuracy")
    return float(np.diag(values).mean())


def intransigence(matrix: Numbers, joint: Numbers) -> float:
    """Mean shortfall of a freshly learned task against joint training; negative is a gain.

    `I = mean_i (joint_i − R[i, i])`

    Args:
        matrix: R [tasks, tasks]; needs the diagonal.
        joint: accuracy [tasks] (or one number) of a model trained on all tasks at once.

    Raises:
        MetricError: a cell of the diagonal or a joint accuracy is missing.

    >>> intransigence([[0.75, None], [0.5, 0.5]], joint=[0.875, 0.875])
    0.25

    Reference: Chaudhry et al., Riemannian Walk, ECCV 2018, equation 5.
    """
    return float(intransigence_per_task(matrix, joint).mean())
