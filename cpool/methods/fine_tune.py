"""FineTune: the whole backbone, task after task, on a copy."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.heads import LinearHead
from cpool.methods._tuned import ALL
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.settings import TrainSettings

__all__ = ["FineTune"]


@dataclass(frozen=True)
class FineTune(Method):
    """Sequential fine-tuning of all weights: what forgets most, and what prompts are cheaper than.

    It trains a copy; the frozen backbone that other methods share is not touched.

    Attributes:
        freeze_old: freeze the head's rows of earlier tasks.
    """

    name: ClassVar[str] = "fine_tune"
    summary: ClassVar[str] = "the whole backbone fine-tuned in sequence, on a copy"
    train: ClassVar[TrainSettings] = ALL
    prompts: ClassVar[bool] = False

    freeze_old: bool = False

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A trainable copy of the backbone and a growing head."""
        head = LinearHead(backbone.query_size, freeze_old=self.freeze_old)
        return PromptedModel(backbone, head, trunk=backbone.trainable_copy())
