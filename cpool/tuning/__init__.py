"""A model specialised on texts of one's own, in one call: tune, predict, add a task, generate."""

from cpool.tuning.completions import AddedCompletions
from cpool.tuning.labels import Added
from cpool.tuning.tune import tune
from cpool.tuning.tuned import Tuned

__all__ = ["Added", "AddedCompletions", "Tuned", "tune"]
