"""EASE (Zhou et al., CVPR 2024): a feature space a task, side by side, prefixes for adapters."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.heads import CosineHead, SessionHead
from cpool.heads.subspace import SubspaceHead
from cpool.methods._session import check_prefix, session_branch
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import OwnSlot
from cpool.prompter import Prompter
from cpool.settings import TrainSettings, is_number

__all__ = ["EASE"]


@dataclass(frozen=True)
class EASE(Method):
    """A prefix a task, trained through a probe of its classes; then prototypes in all T spaces.

    Logit of class c of task o: `γ(f_o, p_{c,o}) + α · mean_{d≠o} γ(f_d, p_{c,d})`, f_d the feature
    of a pass with prefix d. Prototypes of old classes in new spaces are synthesised by how similar
    the classes are in an old one, without any old sample (https://arxiv.org/abs/2403.12030).

    T tasks cost T passes a sample at test; the features of finished slots never change, so a
    learner computes each once. Where paper and this differ: prefixes on all layers take the place
    of adapters; the probe is a cosine classifier over all classes seen, whose loss sees those of
    the task alone; α weighs the mean over the other spaces, as in the code.

    Attributes:
        length: prefix tokens a layer.
        alpha: α.
        donors: which classes a prototype is synthesised from, see `SubspaceHead`.
        scale: of the probe's cosines.
    """

    name: ClassVar[str] = "ease"
    summary: ClassVar[str] = "a prefix and a feature space a task, prototypes in all (Zhou 2024)"
    train: ClassVar[TrainSettings] = TrainSettings(lr=0.01, epochs=8, schedule="cosine")

    length: int = 8
    alpha: float = 0.1
    donors: Literal["task", "all"] = "task"
    scale: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        check_prefix(self)
        self.need(is_number(self.alpha) and self.alpha >= 0, "alpha", "at least 0 and finite")
        self.need(is_number(self.scale) and self.scale > 0, "scale", "above 0 and finite")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """One branch whose slots run apart, and a probe a task."""
        size = backbone.query_size
        lasting = SubspaceHead(size, weight=self.alpha, donors=self.donors)
        head = SessionHead(lasting, lambda: CosineHead(size, scale=self.scale))
        branch = session_branch(backbone, self.length, OwnSlot())
        return PromptedModel(backbone, head, Prompter([branch]), rates={"head": 0.1}, apart=True)
