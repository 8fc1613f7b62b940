"""RanPAC (McDonnell et al., NeurIPS 2023): ridge regression on random features."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.ridge import RidgeHead
from cpool.settings import is_number, is_whole

__all__ = ["RanPAC"]


@dataclass(frozen=True)
class RanPAC(Method):
    """`W = (G + λI)⁻¹ Q`, `G = Σ hhᵀ`, `Q = Σ h yᵀ`, `h = relu(f(x) R)`, R ~ N(0, 1) fixed.

    Sums add up over tasks, so nothing is forgotten but what new classes take away. λ is chosen
    among 10⁻⁸ … 10⁸ on the last 20 % of the newest task's (shuffled) training data and applied
    to the sums of all tasks, as in the paper's code. Its first-session adaptation is left out.

    Attributes:
        projection: M, random features.
        ridge: λ, or "auto".
        seed: of R; drawn with the run's seed when None.
    """

    name: ClassVar[str] = "ranpac"
    summary: ClassVar[str] = "ridge on random features of the frozen model (McDonnell et al. 2023)"
    prompts: ClassVar[bool] = False
    closed_form: ClassVar[bool] = True

    projection: int = 10_000
    ridge: float | Literal["auto"] = "auto"
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what has no solution."""
        self.need(is_whole(self.projection) and self.projection >= 1, "projection", "at least 1")
        fixed = is_number(self.ridge) and float(self.ridge) > 0
        self.need(fixed or self.ridge == "auto", "ridge", 'above 0 and finite, or "auto"')

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A ridge head on the query features."""
        head = RidgeHead(
            backbone.query_size, projection=self.projection, ridge=self.ridge, seed=self.seed
        )
        return PromptedModel(backbone, head)
