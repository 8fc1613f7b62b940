"""LinearHead: no prompt at all, a linear classifier trained task after task."""

from dataclasses import dataclass
from typing import ClassVar

from cpool import heads
from cpool.backbones import Backbone
from cpool.methods._tuned import HEAD
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.settings import TrainSettings

__all__ = ["LinearHead"]


@dataclass(frozen=True)
class LinearHead(Method):
    """Sequential training of `W f(x) + b` on frozen features: the no-prompt row of every table.

    Much of what prompt methods gain comes from the class mask that they all train with; this row
    has the mask and no prompt, and so shows what is left to the prompt.

    Attributes:
        freeze_old: freeze the rows of earlier tasks.
    """

    name: ClassVar[str] = "linear_head"
    summary: ClassVar[str] = "no prompt: a linear head on frozen features, trained in sequence"
    train: ClassVar[TrainSettings] = HEAD
    prompts: ClassVar[bool] = False

    freeze_old: bool = False

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A growing linear head on the query features."""
        head = heads.LinearHead(backbone.query_size, freeze_old=self.freeze_old)
        return PromptedModel(backbone, head)
