"""DER++, dark experience replay (Buzzega et al., NeurIPS 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.methods._tuned import ALL, HEAD, Tune, tuned_model, without_past
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.rules.dark import DarkRehearsal
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["DERPlusPlus"]


@dataclass(frozen=True)
class DERPlusPlus(Method):
    """`CE + α ‖z(x′) − z′‖² / c + β CE(z(x″), y″)`, x′ and x″ two draws from a reservoir.

    Equation 6 of https://arxiv.org/abs/2004.07211; z′ are the c logits that x′ got at the step at
    which it came. The paper writes the squared norm, its code takes the mean over the logits,
    which is done here. Its head has all classes of the stream from the start; this one grows, and
    a stored sample is compared over the columns that it had. β = 0 is DER. The memory fills while
    a task is trained, so it is used in the first task too; see `replay` for what it holds.

    Attributes:
        size: samples in the memory, for the whole stream.
        alpha: α, weight of the stored logits.
        beta: β, weight of the stored labels.
        batch: samples of a draw; as many as there are new ones when None.
        tune: "all" trains the backbone too, "head" a linear head on frozen features.
    """

    name: ClassVar[str] = "der_plus_plus"
    summary: ClassVar[str] = "a memory of samples with their old logits (Buzzega et al. 2020)"
    train: ClassVar[TrainSettings] = ALL.but(mask="seen")
    prompts: ClassVar[bool] = False

    size: int = 200
    alpha: float = 0.1
    beta: float = 0.5
    batch: int | None = None
    tune: Tune = "all"

    def __post_init__(self) -> None:
        """Refuse what remembers nothing."""
        self.need(is_whole(self.size) and self.size >= 1, "size", "at least 1")
        self.need(is_number(self.alpha) and self.alpha >= 0, "alpha", "from 0, finite")
        self.need(is_number(self.beta) and self.beta >= 0, "beta", "from 0, finite")
        some = self.batch is None or (is_whole(self.batch) and self.batch >= 1)
        self.need(some, "batch", "at least 1, or none for as many as are new")
        self.need(self.tune in ("all", "head"), "tune", '"all" or "head"')

    @property
    def settings(self) -> TrainSettings:
        """Those of what trains, with all classes seen competing."""
        return (ALL if self.tune == "all" else HEAD).but(mask="seen")

    @property
    def without_past(self) -> str:
        """The method that its joint training would be."""
        return without_past(self.tune)

    def compose(self, backbone: Backbone) -> PromptedModel:
        """What trains, and the memory."""
        dark = DarkRehearsal(self.size, alpha=self.alpha, beta=self.beta, batch=self.batch)
        return tuned_model(backbone, self.tune, [dark])
