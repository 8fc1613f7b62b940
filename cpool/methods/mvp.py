"""MVP (Moon et al., ICCV 2023): a shared pool with logit masks, for streams without boundaries."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.heads.masked import MaskedHead
from cpool.initialisers import uniform
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import Everything
from cpool.policies.counted import Counted
from cpool.pool import PromptPool
from cpool.prompter import Branch, PrefixSite, Prompter
from cpool.rules.imbalance import Imbalance
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["MVP"]


@dataclass(frozen=True)
class MVP(Method):
    """`s = argmin_m (1 − γ(q, k_m)) (uses_m + 1)`; prefix P_s, logits `(W f + b) ⊙ 2 σ(m_s)`.

    Loss: CE over all classes seen, plus a contrast that pulls the chosen key to the query and
    pushes keys apart (`Counted`). Pool, keys and masks are made once and shared by everything:
    no step waits for a boundary, a class may come back in any task (Si-Blurry), and new classes
    only add columns to head and masks (https://arxiv.org/abs/2308.09303).

    Where paper and code differ, and what is left out: the code queries with the state before the
    last block, here it is the backbone's query; prompts enter as prefixes after projection, as in
    DualPrompt. In the code usage weighs distances at test too (`counted_at_test`). With `balance`
    the cross-entropy becomes the paper's answer to classes of unequal size, see `Imbalance`.

    Attributes:
        pool_size: M, slots that all tasks share.
        general_layers, expert_layers: layer numbers, from 0.
        general_length, expert_length: prefix tokens a layer.
        pull: weight of the key loss.
        counted_at_test: choose by usage at test as in training.
        init: prefixes start from U(-init, init).
        balance: the gradient-similarity focal loss and the feature scaling.
        alpha, gamma, margin: α, γ and the margin of `balance`.
    """

    name: ClassVar[str] = "mvp"
    summary: ClassVar[str] = "shared pool, slots by usage, logit masks, no boundaries (Moon 2023)"
    train: ClassVar[TrainSettings] = TrainSettings(lr=0.005, epochs=1, batch_size=64, mask="seen")

    pool_size: int = 10
    general_layers: tuple[int, ...] = (0, 1)
    expert_layers: tuple[int, ...] = (2, 3, 4)
    general_length: int = 5
    expert_length: int = 20
    pull: float = 1.0
    counted_at_test: bool = True
    init: float = 1.0
    balance: bool = False
    alpha: float = 0.5
    gamma: float = 2.0
    margin: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        self.need(is_whole(self.pool_size) and self.pool_size >= 1, "pool_size", "at least 1")
        self.need(is_number(self.init) and self.init > 0, "init", "above 0 and finite")
        self.need(is_number(self.pull) and self.pull >= 0, "pull", "at least 0 and finite")
        self.need(is_number(self.alpha) and 0 <= self.alpha <= 1, "alpha", "from 0 to 1")
        for key in ("gamma", "margin"):
            value = getattr(self, key)
            self.need(is_number(value) and value > 0, key, "above 0 and finite")
        self.need_layers("expert_layers")
        self.need_layers("general_layers", some=False)

    def compose(self, backbone: Backbone) -> PromptedModel:
        """The chosen prefix first, since the head reads the slot of the first branch."""
        init = uniform(-self.init, self.init)
        heads, width = backbone.num_kv_heads, backbone.num_kv_heads * backbone.head_dim
        site = PrefixSite(self.expert_layers, heads)
        pool = PromptPool(site.sites, self.expert_length, width, init)
        policy = Counted(backbone.query_size, pull=self.pull, counted_at_test=self.counted_at_test)
        branches = [Branch("expert", pool, policy, site, start=self.pool_size)]
        if self.general_layers:
            site = PrefixSite(self.general_layers, heads)
            pool = PromptPool(site.sites, self.general_length, width, init)
            branches.append(Branch("general", pool, Everything(), site, start=1))
        head = MaskedHead(backbone.query_size, self.pool_size)
        rules = [Imbalance(self.alpha, self.gamma, self.margin)] if self.balance else []
        return PromptedModel(backbone, head, Prompter(branches), rules=rules)
