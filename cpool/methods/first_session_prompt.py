"""FirstSessionPrompt: a prefix trained on the first task, then a closed-form classifier for all."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.heads import CosineHead, Head, PrototypeHead, SessionHead
from cpool.methods._session import check_prefix, session_branch
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import OwnSlot
from cpool.prompter import Prompter
from cpool.ridge import RidgeHead
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["FirstSessionPrompt"]


@dataclass(frozen=True)
class FirstSessionPrompt(Method):
    """`f(x)`: the feature with one prefix, trained on task 1; then class means or ridge, no steps.

    First-session adaptation (Panos et al., ICCV 2023; McDonnell et al., *RanPAC*, NeurIPS 2023;
    Zhou et al., *ADAM*, 2023) with a prefix as what adapts. The prefix is trained through a
    cosine probe of the first task's classes, which is thrown away; both classifiers add up over
    tasks, so nothing is forgotten but what new classes take away. One pass a sample, no query.

    Attributes:
        classifier: "ncm", cosines to class means, or "ridge", ridge regression.
        length: prefix tokens a layer, on all layers.
        projection: random features of the ridge, 0 for the features themselves.
        ridge: λ; "auto", as RanPAC; or "left_out", chosen by rows left out of the fit
            (`RidgeHead`).
        scale: of the probe's cosines.
        forgettable: of the ridge: keep each task's share of the sums, so that
            `cpool.exact.forget` can take it out again; not with ridge="auto". Class means always
            can.
    """

    name: ClassVar[str] = "first_session_prompt"
    summary: ClassVar[str] = "a prefix trained on task 1, then class means or ridge"
    train: ClassVar[TrainSettings] = TrainSettings(lr=0.01, epochs=8, schedule="cosine")

    classifier: Literal["ncm", "ridge"] = "ncm"
    length: int = 8
    projection: int = 0
    ridge: float | Literal["auto", "left_out"] = "auto"
    scale: float = 20.0
    forgettable: bool = False

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        check_prefix(self)
        self.need(self.classifier in ("ncm", "ridge"), "classifier", '"ncm" or "ridge"')
        self.need(is_whole(self.projection) and self.projection >= 0, "projection", "at least 0")
        self.need_ridge()
        self.need(is_number(self.scale) and self.scale > 0, "scale", "above 0 and finite")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A prefix of one session, and a probe in front of the lasting head."""
        size = backbone.query_size
        lasting: Head = PrototypeHead(size)
        if self.classifier == "ridge":
            lasting = RidgeHead(
                size,
                projection=self.projection or None,
                ridge=self.ridge,
                forgettable=self.forgettable,
            )
        head = SessionHead(lasting, lambda: CosineHead(size, scale=self.scale), sessions=1)
        branch = session_branch(backbone, self.length, OwnSlot(), sessions=1)
        return PromptedModel(backbone, head, Prompter([branch]), rates={"head": 0.1})
