"""What trains in the baselines without prompts: the whole backbone, or the head alone."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from cpool.backbones import Backbone
from cpool.heads import LinearHead
from cpool.model import PromptedModel
from cpool.rule import Rule
from cpool.settings import TrainSettings

__all__ = ["ALL", "HEAD", "Tune", "tuned_model", "without_past"]

Tune: TypeAlias = Literal["all", "head"]

ALL = TrainSettings(lr=5e-4, epochs=5, optimizer="adamw", weight_decay=0.01, schedule="cosine")
"""How the whole backbone is trained by default, by `fine_tune` and by what guards its past."""

HEAD = TrainSettings(lr=0.01, epochs=10)
"""How the head alone is trained by default, by `linear_head` and by what guards its past."""


def tuned_model(backbone: Backbone, tune: Tune, rules: Sequence[Rule]) -> PromptedModel:
    """Return a growing linear head on a trainable copy of the backbone, or on frozen features."""
    trunk = backbone.trainable_copy() if tune == "all" else None
    return PromptedModel(backbone, LinearHead(backbone.query_size), trunk=trunk, rules=rules)


def without_past(tune: Tune) -> str:
    """Return the method that is left of one that guards the past, when there is none."""
    return "fine_tune" if tune == "all" else "linear_head"
