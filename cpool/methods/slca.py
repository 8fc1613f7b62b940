"""SLCA, slow learner with classifier alignment (Zhang et al., ICCV 2023)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.heads import LinearHead
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.rules.alignment import GaussianAlignment
from cpool.rules.undo import HeadBackup
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["SLCA"]


@dataclass(frozen=True)
class SLCA(Method):
    """The whole backbone at a hundredth of the head's rate; then the head anew on drawn features.

    https://arxiv.org/abs/2303.05118. CE over the task's classes; at a task's end N(μ_c, Σ_c) of
    its features is kept, and the head is trained on draws of all classes with logits divided by
    `τ · norm`. As in the code: Gaussians of old tasks stay as they were although the backbone
    moved on, their means shrink by up to a tenth, the norm is a mean over tasks, and the next task
    starts from the head as it was before the alignment. The code divides the rate by 10 for the
    last tenth of the epochs (CIFAR-100) or fifth (ImageNet-R); here it is constant.

    Attributes:
        slow: rate of the backbone as a share of the head's.
        per_class: draws of each class an epoch of alignment.
        epochs: of alignment; 0 leaves it out ("SL").
        lr: of alignment.
        covariance: "full" (F² numbers a class at most), or "diagonal".
        logit_norm: τ, or None for plain logits.
        mean_decay: by how much the means of the oldest classes shrink at most.
    """

    name: ClassVar[str] = "slca"
    summary: ClassVar[str] = "slow backbone, head aligned on class Gaussians (Zhang et al. 2023)"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=0.01, epochs=20, batch_size=128, optimizer="sgd", weight_decay=5e-4, clip_norm=0.0
    )
    prompts: ClassVar[bool] = False

    slow: float = 0.01
    per_class: int = 256
    epochs: int = 5
    lr: float = 0.01
    covariance: Literal["full", "diagonal"] = "full"
    logit_norm: float | None = 0.1
    mean_decay: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        self.need(is_number(self.slow) and self.slow > 0, "slow", "above 0 and finite")
        self.need(is_whole(self.per_class) and self.per_class >= 1, "per_class", "at least 1")
        self.need(is_whole(self.epochs) and self.epochs >= 0, "epochs", "at least 0")
        self.need(is_number(self.lr) and self.lr > 0, "lr", "above 0 and finite")
        self.need(self.covariance in ("full", "diagonal"), "covariance", '"full" or "diagonal"')
        norm = self.logit_norm
        self.need(norm is None or (is_number(norm) and norm > 0), "logit_norm", "above 0, or none")
        self.need(
            is_number(self.mean_decay) and 0 <= self.mean_decay < 1, "mean_decay", "from 0 below 1"
        )

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A copy of the backbone that learns slowly, a head, and its alignment."""
        alignment = GaussianAlignment(
            backbone.query_size,
            per_class=self.per_class,
            epochs=self.epochs,
            lr=self.lr,
            covariance=self.covariance,
            logit_norm=self.logit_norm,
            mean_decay=self.mean_decay,
        )
        return PromptedModel(
            backbone,
            LinearHead(backbone.query_size),
            trunk=backbone.trainable_copy(),
            rules=[HeadBackup(), alignment],
            rates={"trunk": self.slow},
        )
