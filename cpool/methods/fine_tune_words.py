"""FineTuneWords: all weights of a language model, trained to name the label."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.methods._language import LabelMethod
from cpool.methods._tuned import ALL
from cpool.model import PromptedModel
from cpool.settings import TrainSettings

__all__ = ["FineTuneWords"]


@dataclass(frozen=True)
class FineTuneWords(LabelMethod):
    """Sequential fine-tuning of a language model by the scores of the labels' words.

    What `fine_tune` is to a head on features; it trains a copy, and forgets.
    """

    name: ClassVar[str] = "fine_tune_words"
    summary: ClassVar[str] = "a language model fine-tuned to name the label, in sequence"
    train: ClassVar[TrainSettings] = ALL.but(lr=5e-5, batch_size=8)
    prompts: ClassVar[bool] = False

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A trainable copy of the language model, and the scores of the labels."""
        trunk = backbone.trainable_copy(words=True)
        return self.model(backbone, self.words(backbone), trunk=trunk)
