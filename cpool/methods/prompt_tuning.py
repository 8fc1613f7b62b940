"""Prompt tuning (Lester et al., EMNLP 2021): learned tokens in front of a language model's text."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.initialisers import Initialiser, from_labels, from_text, from_vocabulary, uniform
from cpool.language import LabelWords
from cpool.methods._language import LabelMethod
from cpool.model import PromptedModel
from cpool.prompter import EmbeddingSite
from cpool.settings import TrainSettings

__all__ = ["PromptTuning"]


@dataclass(frozen=True)
class PromptTuning(LabelMethod):
    r"""`log p(label | [P; template(x)])`, P ∈ R^{n×d} the only thing that trains.

    Loss: CE over the scores of the labels of the task (https://arxiv.org/abs/2104.08691; there
    generation with teacher forcing, which raises the right label alone; here all labels of the
    task compete, as at test).

    With `slots="shared"` all tasks train one prompt in turn, which forgets. With "task" each task
    has a prompt of its own, frozen afterwards; at test a Gaussian router over the unprompted
    features chooses it, and the labels of its task compete.

    Attributes:
        length: n, prompt tokens; None takes as many as `text` has.
        init: "vocabulary": tokens drawn from the first 5,000; "text": those of `text`; "labels":
            the mean of each label's tokens, then vocabulary; "random": U(-0.5, 0.5), as in PEFT.
        text: a hard prompt to start from, for "text".
        slots: one prompt a "task", or one "shared" by all.
    """

    name: ClassVar[str] = "prompt_tuning"
    summary: ClassVar[str] = "learned tokens before a language model's text (Lester et al. 2021)"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=0.01, epochs=10, batch_size=8, schedule="cosine"
    )

    length: int | None = 20
    init: Literal["vocabulary", "text", "labels", "random"] = "vocabulary"
    text: str = "Say what the text is about with one of the labels."
    slots: Literal["task", "shared"] = "task"

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        super().__post_init__()
        self.need_start(("vocabulary", "text", "labels", "random"))

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A branch at the embedding, and the scores of the labels."""
        words = self.words(backbone)
        init = self._init(backbone, words)
        return self.tuned(backbone, words, EmbeddingSite(), backbone.hidden_size, init)

    def _init(self, backbone: Backbone, words: LabelWords) -> Initialiser:
        if self.init == "random":
            return uniform(-0.5, 0.5)
        if self.init == "text":
            return from_text(backbone, self.text)
        table = self.token_embedding(backbone).weight
        return from_vocabulary(table) if self.init == "vocabulary" else from_labels(backbone, words)
