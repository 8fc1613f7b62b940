"""OnePrompt (Huang et al., ICLR 2024): one set of prefixes for all tasks, and no query."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.heads import LinearHead
from cpool.initialisers import uniform
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import Everything
from cpool.pool import PromptPool
from cpool.prompter import Branch, PrefixSite, Prompter
from cpool.settings import TrainSettings

__all__ = ["OnePrompt", "shared_prefixes"]


def shared_prefixes(
    backbone: Backbone, groups: Mapping[str, tuple[tuple[int, ...], int]]
) -> Prompter:
    """Return prefixes that every sample of every task gets, and every task trains.

    Args:
        backbone: the frozen model.
        groups: name → (layer numbers, prefix tokens a layer); groups without layers are left out.
    """
    width, branches = backbone.num_kv_heads * backbone.head_dim, []
    for name, (layers, length) in groups.items():
        if layers:
            site = PrefixSite(layers, backbone.num_kv_heads)
            pool = PromptPool(site.sites, length, width, uniform(0.0, 1.0))
            branches.append(Branch(name, pool, Everything(), site, start=1))
    return Prompter(branches)


@dataclass(frozen=True)
class OnePrompt(Method):
    """`K ← [P_K; K]`, `V ← [P_V; V]` with one prefix a layer, trained on every task in turn.

    Loss: CE over the classes of the task. Nothing is chosen, so there is no query pass, which
    halves the cost of inference; the prompt does drift from task to task
    (https://arxiv.org/abs/2402.04129: about as good as a pool in its tables). Prefixes start from
    U(0, 1), as in its code, which counts keys and values together: its lengths 10 and 40 are 5
    and 20 here.

    Attributes:
        early_layers, late_layers: layer numbers, from 0.
        early_length, late_length: prefix tokens a layer.
    """

    name: ClassVar[str] = "oneprompt"
    summary: ClassVar[str] = "one prefix for all tasks, no query (Huang et al. 2024)"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=0.001, epochs=20, batch_size=128, schedule="cosine", clip_norm=0.0
    )

    early_layers: tuple[int, ...] = (0, 1)
    late_layers: tuple[int, ...] = (2, 3, 4)
    early_length: int = 5
    late_length: int = 20

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        self.need(bool(self.early_layers or self.late_layers), "late_layers", "with a layer")
        for key in ("early_layers", "late_layers"):
            self.need_layers(key, some=False)

    def compose(self, backbone: Backbone) -> PromptedModel:
        """Shared prefixes and a linear head."""
        groups = {
            "early": (self.early_layers, self.early_length),
            "late": (self.late_layers, self.late_length),
        }
        head = LinearHead(backbone.query_size)
        return PromptedModel(backbone, head, shared_prefixes(backbone, groups), readout="query")
