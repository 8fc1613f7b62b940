"""SLDA, deep streaming linear discriminant analysis (Hayes & Kanan, CVPR workshops 2020)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.heads import SLDAHead
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.settings import is_number

__all__ = ["SLDA"]


@dataclass(frozen=True)
class SLDA(Method):
    """`argmax_c μ_c·Λ f − ½ μ_c·Λ μ_c`, `Λ = [(1 − ε) Σ + ε I]⁻¹`, Σ the pooled covariance.

    https://arxiv.org/abs/1909.01520. The paper's update of Σ weighs a sample's step by t/(t + 1),
    t the number of all samples before, where that of its class belongs, and a class's first sample
    enters with its distance from 0: both depend on the order. Here Σ is the exact covariance
    within classes of all that was seen, in any order; so learning in sequence equals joint
    learning. There is no base initialisation.

    Attributes:
        shrinkage: ε.
        target: what Σ shrinks to: "identity" (the paper), or "trace", the identity at the scale of
            Σ.
        priors: let frequent classes win near ties (log of their share), as LDA does; not in the
            paper.
        forgettable: keep each task's share of the statistics, so that `cpool.exact.forget` can
            take it out again.
    """

    name: ClassVar[str] = "slda"
    summary: ClassVar[str] = "streaming linear discriminants on frozen features (Hayes & Kanan)"
    prompts: ClassVar[bool] = False
    closed_form: ClassVar[bool] = True

    shrinkage: float = 1e-4
    target: Literal["identity", "trace"] = "identity"
    priors: bool = False
    forgettable: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no inverse."""
        right = is_number(self.shrinkage) and 0 < self.shrinkage <= 1
        self.need(right, "shrinkage", "above 0, at most 1")
        self.need(self.target in ("identity", "trace"), "target", '"identity" or "trace"')

    def compose(self, backbone: Backbone) -> PromptedModel:
        """Discriminants on the query features."""
        head = SLDAHead(
            backbone.query_size,
            shrinkage=self.shrinkage,
            target=self.target,
            priors=self.priors,
            forgettable=self.forgettable,
        )
        return PromptedModel(backbone, head)
