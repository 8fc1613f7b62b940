"""Prefix tuning (Li and Liang, ACL 2021): learned keys and values on every layer of a decoder.

Of an encoder–decoder it is the decoder, too, in front of the answer that it says.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.initialisers import Initialiser, from_text_cache, normal
from cpool.methods._language import LabelMethod
from cpool.model import PromptedModel
from cpool.pool import PromptPool
from cpool.prompter import PrefixSite
from cpool.settings import TrainSettings, is_number, is_whole
from cpool.through_pool import ThroughPool

__all__ = ["PrefixTuning"]


@dataclass(frozen=True)
class PrefixTuning(LabelMethod):
    """`K_l ← [P_K; K_l]`, `V_l ← [P_V; V_l]` on every layer; labels are scored after the text.

    Loss: CE over the scores of the labels of the task (https://arxiv.org/abs/2101.00190). The paper
    trains a prefix through a small network that is thrown away, since a random one is hard to
    train (section 4.3): `through` does so, each task with a network of its own. By default a prefix
    starts from the keys and values of real words instead, which the paper found to be better than
    random ones, too (section 7.4), and is trained directly.

    Attributes:
        length: P, prefix tokens a layer; None takes as many as `text` has.
        init: "text": the keys and values of `text`, untouched the same as the words, or of a T5
            those with which its decoder repeats them; "random": N(0, std²), or with `through` what
            a new network gives.
        text: a hard prompt to start from.
        std: of a random start.
        slots: one prefix a "task", chosen at test by a Gaussian router, or one "shared" by all.
        through: inner width of the network that a task's prefix trains through, 512 in the paper,
            which trains it at a rate of 5e-5; None to train keys and values themselves.
        forgettable: keep what the router needs to take a task out again (`cpool.exact.forget`), Q²
            numbers a task; with slots="task".
        calibrate: take off the scores after texts without content when a task ends, see `ZeroShot`;
            with slots="shared".
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
    through: int | None = None
    forgettable: bool = False
    calibrate: bool = False

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        super().__post_init__()
        self.need_one_prompt()
        self.need_start(("text", "random"))
        self.need(is_number(self.std) and self.std > 0, "std", "above 0 and finite")
        fits = self.init == "random" and self.slots == "task"
        wide = is_whole(self.through) and self.through is not None and self.through >= 1
        self.need(
            self.through is None or (wide and fits),
            "through",
            'None, or at least 1 with init="random" and slots="task"',
        )

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A branch of prefixes on all layers, and the scores of the labels."""
        layers = tuple(range(backbone.prefix_layers))
        site = PrefixSite(layers, backbone.num_kv_heads, after_start=backbone.has_start)
        length = self.token_count(backbone, self.length, self.text)
        return self.tuned(backbone, self.words(backbone), site, self._pool(backbone, site, length))

    def _pool(self, backbone: Backbone, site: PrefixSite, length: int) -> PromptPool:
        width = backbone.num_kv_heads * backbone.head_dim
        if self.through is not None:
            return ThroughPool(site.sites, length, width, inner=self.through)
        start = normal(self.std) if self.init == "random" else self._words(backbone)
        return PromptPool(site.sites, length, width, start)

    def _words(self, backbone: Backbone) -> Initialiser:
        return from_text_cache(backbone, self.text, after_start=True)
