"""The same metrics before the mean: one value a task, and one value after each task."""

import numpy as np
from jaxtyping import Float

from cpool.errors import MetricError
from cpool.metrics._check import Numbers, as_matrix, as_row, lower, need, two_tasks

__all__ = [
    "average_accuracy_curve",
    "backward_transfer_per_task",
    "forgetting_curve",
    "forgetting_per_task",
    "forward_transfer_per_task",
    "intransigence_per_task",
    "task_curve",
]


def average_accuracy_curve(matrix: Numbers) -> Float[np.ndarray, "tasks"]:
    """Average accuracy on the tasks seen so far, after each task.

    `A_t = mean_{i≤t} R[t, i]`

    Args:
        matrix: R [tasks, tasks], fractions; needs the lower triangle.

    Raises:
        MetricError: a cell of the lower triangle is missing, or R is not valid.

    >>> average_accuracy_curve([[0.8, 0.1], [0.6, 0.9]]).tolist()
    [0.8, 0.75]

    Reference: Chaudhry et al., Riemannian Walk, ECCV 2018, section 4.
    """
    values = as_matrix(matrix)
    need(values, lower(len(values)), "the curve of average accuracy")
    return np.array([values[t, : t + 1].mean() for t in range(len(values))])


def task_curve(matrix: Numbers, task: int) -> Float[np.ndarray, "steps"]:
    """Accuracy on one task from the moment it was learned to the end: `R[task:, task]`.

    Raises:
        MetricError: there is no such task, or a cell of its column is missing.

    >>> task_curve([[0.8, 0.1], [0.6, 0.9]], task=0).tolist()
    [0.8, 0.6]
    """
    values = as_matrix(matrix)
    if not 0 <= task < len(values):
        raise MetricError(
            expected=f"a task between 0 and {len(values) - 1}",
            got=str(task),
            remedy="Tasks are counted from 0.",
        )
    need(values, [(t, task) for t in range(task, len(values))], f"the curve of task {task}")
    return values[task:, task]


def forgetting_per_task(matrix: Numbers) -> Float[np.ndarray, "earlier"]:
    """Forgetting of every task but the last, at the end; the best earlier accuracy is the bar.

    `f_i = max_{i≤l<T} R[l, i] − R[T, i]` for i < T (T the last task): negative where the task
    is better at the end than it ever was.

    Raises:
        MetricError: one task only, or a cell of the columns of the earlier tasks is missing.

    >>> forgetting_per_task([[0.75, 0.1, 0.1], [0.5, 0.5, 0.1], [0.25, 0.75, 0.9]]).tolist()
    [0.5, -0.25]

    Reference: Chaudhry et al., Riemannian Walk, ECCV 2018, equation 3.
    """
    values = as_matrix(matrix)
    two_tasks(values, "forgetting")
    last = len(values) - 1
    need(values, [cell for cell in lower(last + 1) if cell != (last, last)], "forgetting")
    return np.array([values[i:last, i].max() - values[last, i] for i in range(last)])


def forgetting_curve(matrix: Numbers) -> Float[np.ndarray, "earlier"]:
    """Mean forgetting after task 1, 2, …, T; after task 0 there is none.

    Raises:
        MetricError: one task only, or a cell of the lower triangle is missing.

    >>> forgetting_curve([[0.75, 0.1, 0.1], [0.5, 0.5, 0.1], [0.25, 0.75, 0.9]]).tolist()
    [0.25, 0.125]
    """
    values = as_matrix(matrix)
    two_tasks(values, "forgetting")
    return np.array(
        [forgetting_per_task(values[: t + 1, : t + 1]).mean() for t in range(1, len(values))]
    )


def backward_transfer_per_task(matrix: Numbers) -> Float[np.ndarray, "earlier"]:
    """Change of every earlier task since it was learned: `R[T, i] − R[i, i]` for i < T.

    Raises:
        MetricError: one task only, or a cell of the diagonal or the last row is missing.

    >>> backward_transfer_per_task([[0.75, 0.1], [0.5, 0.9]]).tolist()
    [-0.25]

    Reference: Lopez-Paz and Ranzato, Gradient Episodic Memory, NeurIPS 2017.
    """
    values = as_matrix(matrix)
    two_tasks(values, "backward transfer")
    last = len(values) - 1
    need(values, [c for i in range(last) for c in ((i, i), (last, i))], "backward transfer")
    return np.asarray(values[last, :last] - np.diag(values)[:last])


def forward_transfer_per_task(matrix: Numbers, baseline: Numbers) -> Float[np.ndarray, "later"]:
    """What earlier tasks gave to every task before it was trained: `R[i−1, i] − b_i` for i > 0.

    Args:
        matrix: R [tasks, tasks]; needs the cells just above the diagonal.
        baseline: b [tasks] or one number, accuracy of an untrained model; b[0] is not used.

    Raises:
        MetricError: one task only, a needed cell or a baseline is missing.

    >>> forward_transfer_per_task([[0.75, 0.25], [0.5, 0.9]], [0.1, 0.125]).tolist()
    [0.125]

    Reference: Lopez-Paz and Ranzato, Gradient Episodic Memory, NeurIPS 2017.
    """
    values = as_matrix(matrix)
    two_tasks(values, "forward transfer")
    base = as_row(baseline, len(values), "baseline of forward transfer")
    need(values, [(i - 1, i) for i in range(1, len(values))], "forward transfer")
    if np.isnan(base[1:]).any():
        raise MetricError(
            expected="a baseline accuracy for every task but the first",
            got=f"task {1 + int(np.isnan(base[1:]).argmax())} without one",
            remedy="Evaluate the untrained model on that task.",
        )
    return np.asarray(np.diag(values, k=1) - base[1:])


def intransigence_per_task(matrix: Numbers, joint: Numbers) -> Float[np.ndarray, "tasks"]:
    """What a task lost against a model trained on everything at once: `joint_i − R[i, i]`.

    Args:
        matrix: R [tasks, tasks]; needs the diagonal.
        joint: accuracy [tasks] (or one number) of the jointly trained model.

    Raises:
        MetricError: a cell of the diagonal or a joint accuracy is missing.

    >>> intransigence_per_task([[0.75, 0.1], [0.5, 0.5]], [1.0, 0.75]).tolist()
    [0.25, 0.25]

    Reference: Chaudhry et al., Riemannian Walk, ECCV 2018, equation 5.
    """
    values = as_matrix(matrix)
    upper = as_row(joint, len(values), "joint accuracy")
    need(values, [(i, i) for i in range(len(values))], "intransigence")
    if np.isnan(upper).any():
        raise MetricError(
            expected="a joint accuracy for every task",
            got=f"task {int(np.isnan(upper).argmax())} without one",
            remedy="Evaluate the jointly trained model on that task.",
        )
    return np.asarray(upper - np.diag(values))
