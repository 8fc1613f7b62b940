"""OS-Prompt (Kim et al., ECCV 2024): CODA-like components, queried by the pass itself."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.errors import ConfigError
from cpool.heads import LinearHead
from cpool.initialisers import uniform
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import SoftAttention
from cpool.pool import PromptPool
from cpool.prompter import Branch, PrefixSite, Prompter
from cpool.rule import Rule
from cpool.rules import GramSchmidt
from cpool.rules.query_pool import QueryPool
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["OSPrompt"]


@dataclass(frozen=True)
class OSPrompt(Method):
    """`p_l = Σ_m α_m P_m`, `α_m = γ(q_l ⊙ A_m, K_m)`, q_l the [CLS] state that enters layer l.

    CODA-Prompt without its query pass: half of the cost at test, and a query that earlier
    prefixes already changed (https://arxiv.org/abs/2402.16189). Where a backbone has no [CLS] the
    mean over the tokens is the query. No gradient flows through a query.

    OS-Prompt++ (`reference`) adds in training `λ Σ_l ‖softmax(α(q_l)) − softmax(α(r))‖²`, r the
    feature of an unprompted pass; that costs a pass a step, and nothing at test. The paper and its
    code weight by plain cosines `γ(q_l, K_m)`, without attention vectors and without the penalty:
    `attended=False, penalty=0`. (Its code compares q and r themselves; here, as in the paper, it
    is how they see the pool.) New components start by Gram-Schmidt, as in its code: q_l is not
    normalised, and components from U(0, 1) all point one way, so that their sum grows with their
    number and later tasks are not learned.

    Attributes:
        layers: layer numbers, from 0; None for the first five, or all where there are fewer.
        slots_per_task: components a task and layer; the paper shares 100 among T tasks.
        length: tokens of a component, even: half of them keys, half values.
        penalty: weight of the orthogonality of components, keys and attention vectors.
        attended: with attention vectors A, as CODA-Prompt has them.
        init: components start by Gram-Schmidt against all older ones, or from U(0, 1).
        reference: add the query-pool regularisation (OS-Prompt++).
        weight: λ.
    """

    name: ClassVar[str] = "osprompt"
    summary: ClassVar[str] = "attended components queried inside the only pass (Kim et al. 2024)"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=0.001, epochs=20, batch_size=128, schedule="cosine", clip_norm=0.0
    )

    layers: tuple[int, ...] | None = None
    slots_per_task: int = 10
    length: int = 8
    penalty: float = 0.1
    attended: bool = True
    init: Literal["uniform", "gram_schmidt"] = "gram_schmidt"
    reference: bool = False
    weight: float = 1e-4

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        even = is_whole(self.length) and self.length >= 2 and self.length % 2 == 0
        self.need(even, "length", "even and at least 2")
        for key in ("penalty", "weight"):
            value = getattr(self, key)
            self.need(is_number(value) and value >= 0, key, "at least 0 and finite")
        self.need(self.init in ("uniform", "gram_schmidt"), "init", '"uniform" or "gram_schmidt"')
        self.need_layers("layers")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A live branch of prefixes for each layer."""
        if self.reference and backbone.query_size != backbone.hidden_size:
            raise ConfigError(
                expected="a backbone whose query is one hidden state, for reference=True",
                got=f"a query of {backbone.query_size} numbers from layers {backbone.layers}",
                remedy="Load the backbone with layers=(-1,), or use reference=False.",
            )
        layers = range(min(5, backbone.num_layers)) if self.layers is None else self.layers
        width = backbone.num_kv_heads * backbone.head_dim
        branches = []
        for layer in layers:
            site = PrefixSite((layer,), backbone.num_kv_heads, halves=True, live=True)
            pool = PromptPool(site.sites, self.length, width, uniform(0.0, 1.0))
            policy = SoftAttention(
                backbone.hidden_size, penalty=self.penalty, attended=self.attended
            )
            branches.append(
                Branch(
                    f"layer{layer}",
                    pool,
                    policy,
                    site,
                    per_task=self.slots_per_task,
                    penalty=self.penalty,
                )
            )
        rules: list[Rule] = [GramSchmidt()] if self.init == "gram_schmidt" else []
        if self.reference:
            rules.append(QueryPool(self.weight))
        head = LinearHead(backbone.query_size)
        return PromptedModel(backbone, head, Prompter(branches), rules=rules)
