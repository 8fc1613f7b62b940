"""OVOR (Huang et al., ICLR 2024): OnePrompt, and a head that knows what is not its task."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.methods.base import Method
from cpool.methods.oneprompt import OnePrompt
from cpool.model import PromptedModel
from cpool.rules.outliers import VirtualOutliers
from cpool.settings import TrainSettings

__all__ = ["OVOR"]


@dataclass(frozen=True)
class OVOR(Method):
    """OnePrompt; then, with prompts as they are, the head trains against virtual outliers.

    Per task: (1) prefixes and head learn as in `OnePrompt`; (2) features f of its samples are
    computed once; (3) the head goes on with
    `CE + λ (mean H([E(f) − m_in]₊) + mean H([m_out − E(v)]₊))`, `E = −log Σ_c exp(logit_c)` over
    the task's classes, H the Huber loss, v points around the edge of the features: see
    `cpool.rules.outliers`, also for a difference between paper and code. Bounds around each
    task's features lessen the confusion of classes that were never trained together
    (https://arxiv.org/abs/2402.04129).

    Attributes:
        early_layers, late_layers, early_length, late_length: as in `OnePrompt`.
        weight: λ.
        outlier_epochs: epochs of step 3.
        outlier_lr: learning rate of step 3 (Adam, cosine).
        low, high: m_in and m_out; the paper's, for logits of a ViT-B.
        spread: standard deviation of the noise around the edge, in units of the features.
        edge, tries, neighbours, per_class: sizes of the search for outliers.
    """

    name: ClassVar[str] = "ovor"
    summary: ClassVar[str] = "one prefix, head trained against virtual outliers (Huang et al. 2024)"
    train: ClassVar[TrainSettings] = OnePrompt.train

    early_layers: tuple[int, ...] = (0, 1)
    late_layers: tuple[int, ...] = (2, 3, 4)
    early_length: int = 5
    late_length: int = 20
    weight: float = 0.1
    outlier_epochs: int = 10
    outlier_lr: float = 1e-4
    low: float = -15.0
    high: float = -3.0
    spread: float = 0.1
    edge: int = 50
    tries: int = 600
    neighbours: int = 50
    per_class: int = 40

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        self._prompt()
        self._rule()

    def _prompt(self) -> OnePrompt:
        return OnePrompt(self.early_layers, self.late_layers, self.early_length, self.late_length)

    def _rule(self) -> VirtualOutliers:
        return VirtualOutliers(
            self.weight,
            epochs=self.outlier_epochs,
            lr=self.outlier_lr,
            per_class=self.per_class,
            low=self.low,
            high=self.high,
            spread=self.spread,
            edge=self.edge,
            tries=self.tries,
            neighbours=self.neighbours,
        )

    def compose(self, backbone: Backbone) -> PromptedModel:
        """OnePrompt's model with one rule."""
        model = self._prompt().compose(backbone)
        model.rules.append(self._rule())
        return model
