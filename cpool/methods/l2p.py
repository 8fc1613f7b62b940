"""L2P, Learning to Prompt (Wang et al., CVPR 2022): a pool at the embedding, chosen by key."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.heads import LinearHead
from cpool.initialisers import moved, uniform
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import TopK
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, Prompter
from cpool.settings import TrainSettings, is_number

__all__ = ["L2P"]


@dataclass(frozen=True)
class L2P(Method):
    """`x_p = [P_s1; …; P_sN; x_e]`, s = top-N of γ(q(x), k); the head reads the prompts' mean.

    Loss: `CE + λ Σ_{s chosen} (1 − γ(q(x), k_s))` (equation 5 of https://arxiv.org/abs/2112.08654).

    Where paper and codes differ: selection is per sample (both codes take the batch's majority,
    at test too, which leaks the task); prompts get no position (as in the JAX code; the PyTorch
    port gives them that of [CLS], see `position`); λ = 0.5 (paper; codes 0.1 and 1.0); the loss is
    the paper's distance, which the codes replace by −γ: the same gradient. The paper never freezes
    prompts; `slots_per_task` makes the pool grow instead: each task adds that many slots, and all
    older ones, with their keys, are frozen.

    Attributes:
        pool_size: M, slots that all tasks share (unused when the pool grows).
        top_k: N, slots a sample.
        length: tokens a slot.
        pull: λ.
        slots_per_task: slots that each task adds, or None for the paper's shared pool.
        own_task: when the pool grows, train only the task's own slots ("prompt mask").
        capacity: when the pool grows, most slots at any time; None for no bound.
        evict: what happens to older slots that do not fit, see `cpool.policies.evict`.
        diversify: penalise slots that earlier tasks used often, in training (equation 4).
        start: keys start at "random", U(-1, 1), or from "queries" of the task's training data.
        init: prompts start from U(-init, init).
        position: "cls" adds the position of [CLS] to that. A prompt is free to move, so this start
            is all that giving it the position comes to, as long as the optimiser decays no weights.
        readout: what the head reads: the mean of the prompts' outputs (the paper), the mean over
            the real tokens, or [CLS]; in a causal model "prompts" becomes "tokens", since the
            outputs of prompts in front of the text cannot depend on it.
    """

    name: ClassVar[str] = "l2p"
    summary: ClassVar[str] = "pool of prompts at the embedding, top-k by key (Wang et al. 2022)"
    train: ClassVar[TrainSettings] = TrainSettings(lr=0.03, epochs=5)

    pool_size: int = 10
    top_k: int = 5
    length: int = 5
    pull: float = 0.5
    slots_per_task: int | None = None
    own_task: bool = True
    diversify: bool = False
    start: Literal["random", "queries"] = "random"
    init: float = 1.0
    position: Literal["none", "cls"] = "none"
    readout: Literal["prompts", "tokens", "cls"] = "prompts"
    capacity: int | None = None
    evict: Literal["usage", "merge", "pca"] = "usage"

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        self.need(is_number(self.init) and self.init > 0, "init", "above 0 and finite")
        self.need(is_number(self.pull) and self.pull >= 0, "pull", "at least 0 and finite")
        self.need(self.start in ("random", "queries"), "start", '"random" or "queries"')
        self.need(self.position in ("none", "cls"), "position", '"none" or "cls"')
        known = self.evict in ("usage", "merge", "pca")
        self.need(known, "evict", '"usage", "merge" or "pca"')
        grows = self.slots_per_task is not None
        self.need(self.capacity is None or grows, "capacity", "none without slots_per_task")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """One branch: embedding, top-k."""
        grows = self.slots_per_task is not None
        policy = TopK(
            backbone.query_size,
            self.top_k,
            pull=self.pull,
            own_task=grows and self.own_task,
            diversify=self.diversify,
            start=self.start,
        )
        site = EmbeddingSite()
        init = uniform(-self.init, self.init)
        if self.position == "cls":
            init = moved(init, backbone.cls_position)
        pool = PromptPool(site.sites, self.length, backbone.hidden_size, init)
        branch = Branch(
            "pool",
            pool,
            policy,
            site,
            start=0 if grows else self.pool_size,
            per_task=self.slots_per_task or 0,
            capacity=self.capacity,
            evict=self.evict,
        )
        head = LinearHead(backbone.hidden_size)
        return PromptedModel(backbone, head, Prompter([branch]), readout=self.readout)
