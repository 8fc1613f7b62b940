"""A model specialised on texts of one's own, in one call: tune, predict, add a task, generate."""

from cpool.tuning.tune import tune
from cpool.tuning.tuned import Added, Tuned

__all__ = ["Added", "Tuned", "tune"]
