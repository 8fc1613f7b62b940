"""A long text as a short slot: what a model says after the slot is what it says after the text."""

from cpool.distil.comparing import Agreement, agreement, divergence
from cpool.distil.distil import Distilled, distil, routed_slots
from cpool.distil.self_study import self_study

__all__ = [
    "Agreement",
    "Distilled",
    "agreement",
    "distil",
    "divergence",
    "routed_slots",
    "self_study",
]
