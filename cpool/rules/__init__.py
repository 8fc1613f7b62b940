"""Rules: terms of the loss and steps at the boundaries, one a file."""

from cpool.rules.dark import DarkRehearsal
from cpool.rules.distillation import Distillation
from cpool.rules.ewc import ElasticPenalty
from cpool.rules.memory import Memory
from cpool.rules.rehearsal import Rehearsal
from cpool.rules.undo import HeadBackup

__all__ = [
    "DarkRehearsal",
    "Distillation",
    "ElasticPenalty",
    "HeadBackup",
    "Memory",
    "Rehearsal",
]
