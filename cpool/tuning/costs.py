"""What a row of a comparison cost, whatever it is measured by."""

from typing import Any

from cpool.learner import Learner
from cpool.meter import stored_bytes, trained_parameters

__all__ = ["costs"]


def costs(learner: Learner, seconds: float, texts: int) -> dict[str, Any]:
    """Return the costs that `record.compared` has of each row.

    Args:
        learner: that has learned the task.
        seconds: that answering took.
        texts: how many were answered.
    """
    return {
        "trained_parameters": trained_parameters(learner.model, learner.trained),
        "bytes": stored_bytes(learner.model),
        "train_seconds": learner.train_seconds,
        "seconds_per_text": seconds / texts,
    }
