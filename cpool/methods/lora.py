"""LoRA (Hu et al., ICLR 2022) on a language model: the bar for prompts, from PEFT."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.methods._adapter import add_lora
from cpool.methods._language import LabelMethod
from cpool.model import PromptedModel
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["LoRA"]


@dataclass(frozen=True)
class LoRA(LabelMethod):
    """`W + (α/r) B A` beside linear layers, trained task after task; labels are scored as words.

    All tasks train the same updates, so it forgets as fine-tuning does, at a fraction of the
    weights; on one task it is the usual alternative to a prompt (https://arxiv.org/abs/2106.09685).
    The layers are PEFT's, and its own weights alone are stored.

    Attributes:
        rank: r.
        alpha: α.
        dropout: before A, in training.
        targets: names of the layers; PEFT's choice for the kind of model when None.
    """

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "low-rank updates of a language model, in sequence (Hu et al. 2022)"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=5e-4, epochs=10, batch_size=8, optimizer="adamw", weight_decay=0.01, schedule="cosine"
    )
    prompts: ClassVar[bool] = False

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no update."""
        super().__post_init__()
        self.need(is_whole(self.rank) and self.rank >= 1, "rank", "at least 1")
        self.need(is_whole(self.alpha) and self.alpha >= 1, "alpha", "at least 1")
        self.need(is_number(self.dropout) and 0 <= self.dropout < 1, "dropout", "from 0, below 1")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A copy of the language model with updates, and the scores of the labels."""
        trunk = backbone.trainable_copy(words=True)
        add_lora(trunk, self.rank, self.alpha, self.dropout, self.targets)
        return self.model(backbone, self.words(backbone), trunk=trunk)
