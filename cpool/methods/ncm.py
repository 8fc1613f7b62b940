"""NCM: nearest class mean on frozen features, nothing trained."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.heads import PrototypeHead
from cpool.methods.base import Method
from cpool.model import PromptedModel

__all__ = ["NCM"]


@dataclass(frozen=True)
class NCM(Method):
    """`argmax_c γ(f(x), μ_c)`, μ_c the mean feature of class c (SimpleCIL, Zhou et al., 2023).

    Attributes:
        normalize: divide each feature by its norm before it enters the mean.
    """

    name: ClassVar[str] = "ncm"
    summary: ClassVar[str] = "nearest class mean on frozen features (SimpleCIL)"
    prompts: ClassVar[bool] = False
    closed_form: ClassVar[bool] = True

    normalize: bool = False

    def compose(self, backbone: Backbone) -> PromptedModel:
        """Prototypes on the query features."""
        return PromptedModel(backbone, PrototypeHead(backbone.query_size, normalize=self.normalize))
