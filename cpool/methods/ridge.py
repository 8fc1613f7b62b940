"""Ridge: ridge regression on the frozen features themselves."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.ridge import RidgeHead

__all__ = ["Ridge"]


@dataclass(frozen=True)
class Ridge(Method):
    """`W = (Σ f fᵀ + λI)⁻¹ Σ f yᵀ`, sums over all samples seen, y one-hot, no bias.

    RanPAC without its random features, so it shows what these add. With λ fixed, learning in
    sequence equals joint learning; "auto" chooses λ anew on the newest task, as RanPAC does.

    Attributes:
        ridge: λ; "auto"; or "left_out", chosen by rows left out of the fit (`RidgeHead`).
        forgettable: keep each task's share of the sums, so that `cpool.exact.forget` can take it
            out again; not with "auto".
    """

    name: ClassVar[str] = "ridge"
    summary: ClassVar[str] = "ridge regression on frozen features, no random projection"
    prompts: ClassVar[bool] = False
    closed_form: ClassVar[bool] = True

    ridge: float | Literal["auto", "left_out"] = "auto"
    forgettable: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no solution."""
        self.need_ridge()

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A ridge head on the query features."""
        head = RidgeHead(
            backbone.query_size,
            projection=None,
            ridge=self.ridge,
            forgettable=self.forgettable,
        )
        return PromptedModel(backbone, head)
