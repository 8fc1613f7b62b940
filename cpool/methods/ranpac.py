"""RanPAC (McDonnell et al., NeurIPS 2023): ridge regression on random features."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.heads import CosineHead, SessionHead
from cpool.methods._session import check_prefix, session_branch
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies.own_slot import OwnSlot
from cpool.prompter import Prompter
from cpool.ridge import RidgeHead
from cpool.settings import TrainSettings, is_whole

__all__ = ["RanPAC"]


@dataclass(frozen=True)
class RanPAC(Method):
    """`W = (G + λI)⁻¹ Q`, `G = Σ hhᵀ`, `Q = Σ h yᵀ`, `h = relu(f(x) R)`, R ~ N(0, 1) fixed.

    Sums add up over tasks, so nothing is forgotten but what new classes take away. λ is chosen
    among 10⁻⁸ … 10⁸ on the last 20 % of the newest task's (shuffled) training data and applied
    to the sums of all tasks, as in the paper's code. Its first-session adaptation trains a module
    (prompts, adapters, scales) on the first task, then freezes it; here a prefix on all layers.

    Attributes:
        projection: M, random features.
        ridge: λ; "auto", the paper's; or "left_out", chosen by rows left out of the fit
            (`RidgeHead`).
        seed: of R; drawn with the run's seed when None.
        first_session: train a prefix on the first task.
        length: P, its tokens a layer.
        forgettable: keep each task's share of the sums, so that `cpool.exact.forget` can take it
            out again; not with ridge="auto".
    """

    name: ClassVar[str] = "ranpac"
    summary: ClassVar[str] = "ridge on random features of the frozen model (McDonnell et al. 2023)"
    prompts: ClassVar[bool] = False
    closed_form: ClassVar[bool] = True
    train: ClassVar[TrainSettings] = TrainSettings(lr=0.01, epochs=8, schedule="cosine")

    projection: int = 10_000
    ridge: float | Literal["auto", "left_out"] = "auto"
    seed: int | None = None
    first_session: bool = False
    length: int = 8
    forgettable: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no solution."""
        check_prefix(self)
        self.need(is_whole(self.projection) and self.projection >= 1, "projection", "at least 1")
        self.need_ridge()

    @property
    def trains(self) -> bool:
        """Whether the first task has steps of optimisation."""
        return self.first_session

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A ridge head on the query features, prompted or not."""
        size = backbone.query_size
        ridge = RidgeHead(
            size,
            projection=self.projection,
            ridge=self.ridge,
            seed=self.seed,
            forgettable=self.forgettable,
        )
        if not self.first_session:
            return PromptedModel(backbone, ridge)
        branch = session_branch(backbone, self.length, OwnSlot(), sessions=1)
        head = SessionHead(ridge, lambda: CosineHead(size), sessions=1)
        return PromptedModel(backbone, head, Prompter([branch]), rates={"head": 0.1})
