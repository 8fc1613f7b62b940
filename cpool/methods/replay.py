"""Replay: a few samples of the past are learned again with each batch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.methods._tuned import ALL, HEAD, Tune, tuned_model, without_past
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.rules.rehearsal import Rehearsal
from cpool.settings import TrainSettings, is_whole

__all__ = ["Replay"]


@dataclass(frozen=True)
class Replay(Method):
    """`CE(batch) + CE(batch of the memory)`, all classes seen competing in both.

    "Experience replay" (Ratcliff, 1990; for neural networks today Chaudhry et al.,
    https://arxiv.org/abs/1902.10486). The memory holds inputs as the model takes them (a 224 × 224
    image is 602 kB, a text 8 to 12 bytes a token), or query features with `tune = "head"`; what it
    holds counts as stored. It is filled when a task ends. With `mask = "task"` in the settings
    only the new batch is masked, which is the asymmetric loss of ER-ACE (Caccia et al., ICLR 2022).

    Attributes:
        size: samples in the memory, for the whole stream.
        keep: "reservoir", each sample of the stream is as likely to stay; or "class", as many of
            each class.
        batch: remembered samples a step; as many as there are new ones when None.
        tune: "all" trains the backbone too, "head" a linear head on frozen features.
    """

    name: ClassVar[str] = "replay"
    summary: ClassVar[str] = "a memory of samples, learned again at each step"
    train: ClassVar[TrainSettings] = ALL.but(mask="seen")
    prompts: ClassVar[bool] = False

    size: int = 200
    keep: Literal["reservoir", "class"] = "reservoir"
    batch: int | None = None
    tune: Tune = "all"

    def __post_init__(self) -> None:
        """Refuse what remembers nothing."""
        self.need(is_whole(self.size) and self.size >= 1, "size", "at least 1")
        self.need(self.keep in ("reservoir", "class"), "keep", '"reservoir" or "class"')
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
        rehearsal = Rehearsal(self.size, keep=self.keep, batch=self.batch)
        return tuned_model(backbone, self.tune, [rehearsal])
