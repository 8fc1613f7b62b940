"""SAPT (Zhao et al., ACL 2024): prompts of all tasks mixed by an attention that tasks share."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.heads import LinearHead
from cpool.initialisers import uniform
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import SharedAttention
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, Prompter
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["SAPT"]


@dataclass(frozen=True)
class SAPT(Method):
    """`x′ = [Σ_i a_i P_i; x]`, `a = softmax_i(h(q(x))·k_i / √Q)`, over the tasks up to now.

    The same attention picks prompts in training and at test; older prompts and keys are frozen,
    the projection h (down, up, SiLU, layer norm) is shared and goes on learning. Loss:
    `CE + ρ Σ_{j<t} KL(ā_j ‖ a(z_j))`, which keeps the attention of earlier tasks (attentive
    reflection, https://arxiv.org/abs/2401.08295; equations from the paper and its code).

    What differs here: the query is the frozen model's feature, where the code takes the maximum
    over token embeddings; the reflection replays queries drawn from a Gaussian a task, where the
    paper generates pseudo-samples with a language model; a prompt is trained as it is, not
    through an MLP; the head is a classifier, not the vocabulary.

    Attributes:
        length: tokens of a task's prompt.
        width: inner width of the projection.
        reflect: ρ.
        replays: drawn queries an earlier task and step.
        init: prompts start from U(-init, init).
    """

    name: ClassVar[str] = "sapt"
    summary: ClassVar[str] = "prompts mixed by one attention for all tasks (Zhao et al. 2024)"
    train: ClassVar[TrainSettings] = TrainSettings(lr=0.003, epochs=10)

    length: int = 10
    width: int = 100
    reflect: float = 0.1
    replays: int = 16
    init: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        self.need(is_number(self.init) and self.init > 0, "init", "above 0 and finite")
        self.need(is_number(self.reflect) and self.reflect >= 0, "reflect", "at least 0 and finite")
        for key in ("width", "replays"):
            value = getattr(self, key)
            self.need(is_whole(value) and value >= 1, key, "at least 1")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """One branch at the embedding that grows by a slot each task."""
        site = EmbeddingSite()
        init = uniform(-self.init, self.init)
        pool = PromptPool(site.sites, self.length, backbone.hidden_size, init)
        policy = SharedAttention(
            backbone.query_size, width=self.width, reflect=self.reflect, replays=self.replays
        )
        branch = Branch("shared", pool, policy, site, per_task=1)
        head = LinearHead(backbone.query_size)
        return PromptedModel(backbone, head, Prompter([branch]), readout="query")
