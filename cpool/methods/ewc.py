"""EWC, elastic weight consolidation (Kirkpatrick et al., PNAS 2017)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.methods._tuned import ALL, HEAD, Tune, tuned_model, without_past
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.rules.ewc import ElasticPenalty
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["EWC"]


@dataclass(frozen=True)
class EWC(Method):
    """`CE + λ/2 Σ_t Σ_i F_t,i (θ_i − θ*_t,i)²`, F_t the diagonal Fisher information of task t.

    Equation 3 of https://arxiv.org/abs/1612.00796, one penalty a task. `online` keeps one penalty
    with a running F around the newest weights (Schwarz et al., ICML 2018): 8 bytes a parameter in
    all, instead of 8 for each task. F is a mean over samples, each with its own gradient (codes
    that square the gradient of a batch's mean get another, smaller one), of labels drawn from the
    model's own answer, or of the data's labels (`fisher = "data"`, the "empirical Fisher" of most
    codes). Rows of the head that a later task adds are free in the penalties of earlier ones.
    On a head alone a mask of the task's classes leaves nothing to hold (old rows get no gradient),
    so there all classes seen compete. The paper searches λ on each problem; Avalanche's
    `ewc_lambda` is our λ/2.

    Attributes:
        strength: λ.
        online: one penalty instead of one a task.
        decay: γ, what is left of the old F after each task, when online.
        fisher: whose labels, "model" or "data".
        samples: how many samples of a task F is measured on; all when None.
        tune: "all" trains the backbone too, "head" a linear head on frozen features.
    """

    name: ClassVar[str] = "ewc"
    summary: ClassVar[str] = "weights held by their Fisher information (Kirkpatrick et al. 2017)"
    train: ClassVar[TrainSettings] = ALL
    prompts: ClassVar[bool] = False

    strength: float = 100.0
    online: bool = False
    decay: float = 1.0
    fisher: Literal["model", "data"] = "model"
    samples: int | None = 200
    tune: Tune = "all"

    def __post_init__(self) -> None:
        """Refuse what makes no penalty."""
        self.need(is_number(self.strength) and self.strength >= 0, "strength", "from 0, finite")
        self.need(is_number(self.decay) and 0 <= self.decay <= 1, "decay", "from 0 to 1")
        self.need(self.fisher in ("model", "data"), "fisher", '"model" or "data"')
        some = self.samples is None or (is_whole(self.samples) and self.samples >= 1)
        self.need(some, "samples", "at least 1, or none for all")
        self.need(self.tune in ("all", "head"), "tune", '"all" or "head"')

    @property
    def settings(self) -> TrainSettings:
        """Those of what trains; in a head alone all classes seen compete."""
        return ALL if self.tune == "all" else HEAD.but(mask="seen")

    @property
    def without_past(self) -> str:
        """The method that its joint training would be."""
        return without_past(self.tune)

    def compose(self, backbone: Backbone) -> PromptedModel:
        """What trains, and the penalty."""
        penalty = ElasticPenalty(
            self.strength,
            online=self.online,
            decay=self.decay,
            labels=self.fisher,
            samples=self.samples,
        )
        return tuned_model(backbone, self.tune, [penalty])
