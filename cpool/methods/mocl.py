"""MoCL (Wang et al., NAACL 2024): prompts of all tasks summed by how well each task matches."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.heads import LinearHead
from cpool.initialisers import uniform
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import Mixture
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, PrefixSite, Prompter, Site
from cpool.settings import TrainSettings, is_number

__all__ = ["MoCLPrompt"]


@dataclass(frozen=True)
class MoCLPrompt(Method):
    """`P′(x) = Σ_{i≤t} α_i P_i`, `α_i = γ(q(x), v_i)`: one prompt P and one vector v a task.

    In training of task t and at test alike, the prompts of all tasks so far are composed by the
    cosines of the query and the task vectors; older prompts and vectors are frozen. Loss:
    `CE + λ (1 − γ(q(x), v_t))`, which draws v_t to the queries of its task. Written from the
    equations of the paper alone (https://arxiv.org/abs/2404.00790), with its prefix-tuning
    modules; LoRA modules are none of this library's.

    What differs here: task vectors start at the centre of the task's queries
    (`start="random"` from U(-1, 1), where α is near 0 and the new prompt at first does nothing);
    the softmax of the cosines is offered beside the bare ones.

    Attributes:
        site: "prefix", on `layers`, or "embedding".
        layers: layer numbers, from 0; None for all.
        length: tokens of a task's prompt (a layer).
        pull: λ.
        normalise: "none" for the cosines, "softmax" for `softmax(α / temperature)`.
        temperature: of the softmax.
        start: how task vectors start.
        init: prompts start from U(-init, init).
    """

    name: ClassVar[str] = "mocl"
    summary: ClassVar[str] = "prompts of all tasks summed by task match (Wang et al. 2024)"
    train: ClassVar[TrainSettings] = TrainSettings(lr=0.003, epochs=10)

    site: Literal["prefix", "embedding"] = "prefix"
    layers: tuple[int, ...] | None = None
    length: int = 10
    pull: float = 1.0
    normalise: Literal["none", "softmax"] = "none"
    temperature: float = 0.1
    start: Literal["queries", "random"] = "queries"
    init: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        self.need(self.site in ("prefix", "embedding"), "site", '"prefix" or "embedding"')
        self.need(is_number(self.init) and self.init > 0, "init", "above 0 and finite")
        self.need(is_number(self.pull) and self.pull >= 0, "pull", "at least 0 and finite")
        self.need(self.start in ("queries", "random"), "start", '"queries" or "random"')
        self.need_layers("layers")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """One branch that grows by a slot each task, mixed by cosine."""
        site: Site = EmbeddingSite()
        width = backbone.hidden_size
        if self.site == "prefix":
            layers = tuple(range(backbone.num_layers)) if self.layers is None else self.layers
            site = PrefixSite(layers, backbone.num_kv_heads)
            width = backbone.num_kv_heads * backbone.head_dim
        pool = PromptPool(site.sites, self.length, width, uniform(-self.init, self.init))
        policy = Mixture(
            backbone.query_size,
            temperature=self.temperature,
            normalise=self.normalise,
            pull=self.pull,
            start=self.start,
        )
        branch = Branch("tasks", pool, policy, site, per_task=1)
        head = LinearHead(backbone.query_size)
        return PromptedModel(backbone, head, Prompter([branch]), readout="query")
