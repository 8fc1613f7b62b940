"""Prefix tuning (Li and Liang, ACL 2021): learned keys and values on every layer of a decoder."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.initialisers import Initialiser, from_text_cache, normal
from cpool.methods._language import LabelMethod
from cpool.model import PromptedModel
from cpool.policies import Everything, GaussianRouter, Policy
from cpool.pool import PromptPool
from cpool.prompter import Branch, PrefixSite, Prompter
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["PrefixTuning"]


@dataclass(frozen=True)
class PrefixTuning(LabelMethod):
    """`K_l ← [P_K; K_l]`, `V_l ← [P_V; V_l]` on every layer; labels are scored after the text.

    Loss: CE over the scores of the labels of the task (https://arxiv.org/abs/2101.00190). The paper
    trains a prefix through a small network that is thrown away, since a random one is hard to
    train; here it starts from the keys and values of real words instead, which it found to be
    better than random ones, too (section 7.4), and is trained directly.

    Attributes:
        length: P, prefix tokens a layer; None takes as many as `text` has.
        init: "text": the keys and values of `text`, untouched the same as the words; "random":
            N(0, std²).
        text: a hard prompt to start from.
        std: of a random start.
        slots: one prefix a "task", chosen at test by a Gaussian router, or one "shared" by all.
    """

    name: ClassVar[str] = "prefix_tuning"
    summary: ClassVar[str] = "learned keys and values before a text (Li and Liang 2021)"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=0.003, epochs=10, batch_size=8, schedule="cosine"
    )

    length: int | None = 20
    init: Literal["text", "random"] = "text"
    text: str = "Say what the text is about with one of the labels."
    std: float = 0.02
    slots: Literal["task", "shared"] = "task"

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        super().__post_init__()
        self.need(self.init in ("text", "random"), "init", '"text" or "random"')
        self.need(self.slots in ("task", "shared"), "slots", '"task" or "shared"')
        self.need(self.init != "text" or bool(self.text.strip()), "text", "with words")
        self.need(is_number(self.std) and self.std > 0, "std", "above 0 and finite")
        if self.length is None:
            self.need(self.init == "text", "length", 'at least 1, or None with init "text"')
        else:
            self.need(is_whole(self.length) and self.length >= 1, "length", "at least 1")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A branch of prefixes on all layers, and the scores of the labels."""
        words = self.words(backbone)
        site = PrefixSite(tuple(range(backbone.num_layers)), backbone.num_kv_heads)
        width = backbone.num_kv_heads * backbone.head_dim
        init: Initialiser = (
            normal(self.std) if self.init == "random" else from_text_cache(backbone, self.text)
        )
        pool = PromptPool(
            site.sites, self.token_count(backbone, self.length, self.text), width, init
        )
        shared = self.slots == "shared"
        policy: Policy = Everything() if shared else GaussianRouter(backbone.query_size)
        branch = Branch("prefix", pool, policy, site, start=int(shared), per_task=int(not shared))
        return self.model(backbone, words, Prompter([branch]), routed=not shared)
