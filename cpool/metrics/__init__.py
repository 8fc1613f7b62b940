"""Accuracy, forgetting and transfer on a stream of tasks.

`functional` holds the definitions that cpool reports, `variants` those of other libraries under
their names, and `AccuracyMatrix` is filled while a stream is learned. `METRICS` lists them all.
"""

from typing import Final

from cpool.metrics import functional, variants
from cpool.metrics.functional import (
    average_accuracy,
    average_accuracy_curve,
    average_accuracy_weighted,
    average_incremental_accuracy,
    backward_transfer,
    backward_transfer_per_task,
    forgetting,
    forgetting_curve,
    forgetting_per_task,
    forward_transfer,
    forward_transfer_per_task,
    intransigence,
    intransigence_per_task,
    learning_accuracy,
    task_curve,
)
from cpool.metrics.matrix import AccuracyMatrix

__all__ = [
    "METRICS",
    "AccuracyMatrix",
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
    "functional",
    "intransigence",
    "intransigence_per_task",
    "learning_accuracy",
    "task_curve",
    "variants",
]


def _first_lines(module: object, names: list[str]) -> dict[str, str]:
    # python -OO strips docstrings; the names must still be listed then.
    docs = {name: getattr(module, name).__doc__ or name for name in names}
    return {name: doc.strip().splitlines()[0] for name, doc in docs.items()}


METRICS: Final[dict[str, str]] = {
    **_first_lines(functional, functional.__all__),
    **_first_lines(variants, variants.__all__),
}
"""Name → what it is in one line, for `cpool list metrics`."""
