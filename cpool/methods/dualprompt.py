"""DualPrompt (Wang et al., ECCV 2022): a general prefix for all tasks, an expert for each."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.heads import LinearHead
from cpool.initialisers import from_slot, uniform
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import Everything, TopK
from cpool.pool import PromptPool
from cpool.prompter import Branch, PrefixSite, Prompter
from cpool.settings import TrainSettings, is_number

__all__ = ["DualPrompt"]


@dataclass(frozen=True)
class DualPrompt(Method):
    """Prefixes `[P_K; K]`, `[P_V; V]` after projection: general on the first layers, then expert.

    Loss: `CE − γ(q(x), k_t)` up to a constant; in training the task's own expert is used, at test
    that of the most similar key (https://arxiv.org/abs/2204.04799, equations 5–7, and its code).

    Where paper and codes differ: K and V get a full-length prefix each (the paper halves one
    prompt), which enters after W_K and W_V; the axes of batch and K/V are never mixed (the
    PyTorch ports reshape them without a permutation); experts of tasks still to come do not
    exist, so they cannot be chosen; finished experts and their keys are frozen. Expert t starts
    from expert t−1. The general prefix trains on every task, as published.

    Attributes:
        general_layers, expert_layers: layer numbers, from 0.
        general_length, expert_length: prefix tokens a layer.
        pull: weight of the key loss.
        init: prefixes start from U(-init, init).
        copy_expert: start expert t from expert t−1.
    """

    name: ClassVar[str] = "dualprompt"
    summary: ClassVar[str] = "general and per-task expert prefixes (Wang et al. 2022)"
    train: ClassVar[TrainSettings] = TrainSettings(lr=0.01, epochs=5)

    general_layers: tuple[int, ...] = (0, 1)
    expert_layers: tuple[int, ...] = (2, 3, 4)
    general_length: int = 5
    expert_length: int = 5
    pull: float = 1.0
    init: float = 1.0
    copy_expert: bool = True

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        self.need(is_number(self.init) and self.init > 0, "init", "above 0 and finite")
        self.need(is_number(self.pull) and self.pull >= 0, "pull", "at least 0 and finite")
        for key in ("general_layers", "expert_layers"):
            self.need_layers(key, some=False)

    def compose(self, backbone: Backbone) -> PromptedModel:
        """Two branches of prefixes; the expert's grows by a slot each task."""
        init = uniform(-self.init, self.init)
        width = backbone.num_kv_heads * backbone.head_dim
        branches = []
        if self.general_layers:
            site = PrefixSite(self.general_layers, backbone.num_kv_heads)
            pool = PromptPool(site.sites, self.general_length, width, init)
            branches.append(Branch("general", pool, Everything(), site, start=1))
        if self.expert_layers:
            site = PrefixSite(self.expert_layers, backbone.num_kv_heads)
            pool = PromptPool(site.sites, self.expert_length, width, init)
            policy = TopK(backbone.query_size, 1, pull=self.pull, own_task=True)
            again = (lambda pool: from_slot(pool, -1)) if self.copy_expert else None
            branches.append(Branch("expert", pool, policy, site, per_task=1, init_next=again))
        head = LinearHead(backbone.query_size)
        return PromptedModel(backbone, head, Prompter(branches), readout="query")
