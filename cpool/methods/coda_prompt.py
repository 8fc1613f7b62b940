"""CODA-Prompt (Smith et al., CVPR 2023): prefixes summed from components by soft attention."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.heads import LinearHead
from cpool.initialisers import uniform
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import SoftAttention
from cpool.pool import PromptPool
from cpool.prompter import Branch, PrefixSite, Prompter
from cpool.rule import Rule
from cpool.rules.gram_schmidt import GramSchmidt
from cpool.rules.orthogonality import OrthogonalityNorm
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["CODAPrompt"]


@dataclass(frozen=True)
class CODAPrompt(Method):
    """`p = Σ_m α_m P_m`, `α_m = γ(q(x) ⊙ A_m, K_m)`: first half of p before the keys, rest values.

    Each layer has its own K, A and P. Every task adds components; older ones are frozen but take
    part, so that the sum is end-to-end in the loss: no softmax, no top-k, no key loss. Loss:
    `CE + μ Σ_layers (L(K) + L(A) + L(P))`, L an orthogonality loss
    (https://arxiv.org/abs/2211.13218, equations 3–8).

    Where paper and code differ: the paper's L is the norm of XXᵀ − I with μ = 0.1
    (`penalty_form="norm"`); the code takes the mean of the squares ("mean"), sets μ to 0 in every
    published script, and starts each task's components by Gram-Schmidt (`init="gram_schmidt"`,
    see `cpool.rules.gram_schmidt` for how orthogonal that is). The code fixes the layers 0–4; by
    default a shallower model gets prefixes in all of its layers.

    Attributes:
        layers: layer numbers, from 0; None for the first five, or all where there are fewer.
        slots_per_task: components a task and layer; the paper shares 100 among T tasks.
        length: tokens of a component, even: half of them keys, half values.
        penalty: μ.
        penalty_form: "mean" or "norm".
        init: components start from U(0, 1), or by Gram-Schmidt against all older ones.
        capacity: most components a layer at any time; None for no bound.
        evict: what happens to older ones that do not fit, see `cpool.policies.evict`. Every step
            uses every component, so that "usage" would only drop the latest ones first.
    """

    name: ClassVar[str] = "coda_prompt"
    summary: ClassVar[str] = "prefixes summed from attended components (Smith et al. 2023)"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=0.001, epochs=20, batch_size=128, schedule="cosine", clip_norm=0.0
    )

    layers: tuple[int, ...] | None = None
    slots_per_task: int = 10
    length: int = 8
    penalty: float = 0.1
    penalty_form: Literal["mean", "norm"] = "mean"
    init: Literal["uniform", "gram_schmidt"] = "uniform"
    capacity: int | None = None
    evict: Literal["usage", "merge", "pca"] = "merge"

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        even = is_whole(self.length) and self.length >= 2 and self.length % 2 == 0
        self.need(even, "length", "even and at least 2")
        self.need(is_number(self.penalty) and self.penalty >= 0, "penalty", "at least 0 and finite")
        self.need(self.penalty_form in ("mean", "norm"), "penalty_form", '"mean" or "norm"')
        self.need(self.init in ("uniform", "gram_schmidt"), "init", '"uniform" or "gram_schmidt"')
        known = self.evict in ("usage", "merge", "pca")
        self.need(known, "evict", '"usage", "merge" or "pca"')
        self.need_layers("layers")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A branch of prefixes for each layer."""
        layers = range(min(5, backbone.num_layers)) if self.layers is None else self.layers
        width = backbone.num_kv_heads * backbone.head_dim
        mean = self.penalty if self.penalty_form == "mean" else 0.0
        branches = []
        for layer in layers:
            site = PrefixSite((layer,), backbone.num_kv_heads, halves=True)
            pool = PromptPool(site.sites, self.length, width, uniform(0.0, 1.0))
            policy = SoftAttention(backbone.query_size, penalty=mean)
            branches.append(
                Branch(
                    f"layer{layer}",
                    pool,
                    policy,
                    site,
                    per_task=self.slots_per_task,
                    penalty=mean,
                    capacity=self.capacity,
                    evict=self.evict,
                )
            )
        rules: list[Rule] = [GramSchmidt()] if self.init == "gram_schmidt" else []
        if self.penalty and self.penalty_form == "norm":
            rules.append(OrthogonalityNorm(self.penalty))
        head = LinearHead(backbone.query_size)
        return PromptedModel(backbone, head, Prompter(branches), readout="query", rules=rules)
