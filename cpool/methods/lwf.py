"""LwF, learning without forgetting (Li & Hoiem, ECCV 2016)."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.methods._tuned import ALL, HEAD, Tune, tuned_model, without_past
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.rules.distillation import Distillation
from cpool.settings import TrainSettings, is_number

__all__ = ["LwF"]


@dataclass(frozen=True)
class LwF(Method):
    """`CE + λ KL(softmax(z_old / T) ‖ softmax(z / T))` over the classes known before the task.

    https://arxiv.org/abs/1606.09282, equations 2–3. z_old are the logits that the model before the
    task gives to the samples of the task. The paper writes the cross-entropy with softened
    targets, which has the same gradient and is not 0 where nothing changed; it has a head and a
    softmax for each old task, told the task, where one softmax over all old classes stands here.
    There is no factor T². On a head alone a mask of the task's classes leaves nothing to distil
    (old rows get no gradient), so there all classes seen compete.

    With `tune = "all"` a frozen copy of the backbone is in memory while a task lasts (4 bytes a
    parameter: 343 MB for ViT-B/16) and runs once a step; no checkpoint holds it, since a task
    starts from the weights that are there anyway.

    Attributes:
        strength: λ.
        temperature: T.
        tune: "all" trains the backbone too, "head" a linear head on frozen features.
    """

    name: ClassVar[str] = "lwf"
    summary: ClassVar[str] = "distilled from the model before the task (Li & Hoiem 2016)"
    train: ClassVar[TrainSettings] = ALL
    prompts: ClassVar[bool] = False

    strength: float = 1.0
    temperature: float = 2.0
    tune: Tune = "all"

    def __post_init__(self) -> None:
        """Refuse what distils nothing."""
        self.need(is_number(self.strength) and self.strength >= 0, "strength", "from 0, finite")
        warm = is_number(self.temperature) and self.temperature > 0
        self.need(warm, "temperature", "above 0 and finite")
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
        """What trains, and the distillation."""
        return tuned_model(backbone, self.tune, [Distillation(self.strength, self.temperature)])
