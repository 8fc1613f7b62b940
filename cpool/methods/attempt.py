"""ATTEMPT (Asai et al., EMNLP 2022): a task's prompt plus an attention over those before it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.methods._language import LabelMethod
from cpool.model import PromptedModel
from cpool.policies import AttendedSources
from cpool.pool import PromptPool
from cpool.prompter import EmbeddingSite
from cpool.settings import TrainSettings, is_whole

__all__ = ["ATTEMPT"]


@dataclass(frozen=True)
class ATTEMPT(LabelMethod):
    r"""`log p(label | [P_k + Σ_{j≤k} a_j P_j; template(x)])`, a per sample (`AttendedSources`).

    P_k and the small network of its attention train; earlier prompts are frozen sources
    (https://arxiv.org/abs/2205.11961; equations from the paper and its code). Loss and choice of
    the task at test as in `PromptTuning`. Of a finished task neither
    the prompt, nor its sources, nor its network moves.

    What differs here: the sources are the earlier tasks of the stream, where the paper trains some
    on large tasks first, so the first task is its own prompt alone; a source was trained together
    with its own sources; the query is the frozen model's feature, where the paper takes the maximum
    over token embeddings. Each task has a network of its own, as where the paper trains one task.

    Attributes:
        length: n, prompt tokens; None takes as many as `text` has.
        init: how a prompt starts, as for `PromptTuning`.
        text: a hard prompt to start from, for "text".
        width: inner width of a task's attention.
    """

    name: ClassVar[str] = "attempt"
    summary: ClassVar[str] = "a prompt and an attention over earlier ones (Asai et al. 2022)"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=0.01, epochs=10, batch_size=8, schedule="cosine"
    )
    slots: ClassVar[str] = "task"

    length: int | None = 20
    init: Literal["vocabulary", "text", "labels", "random"] = "vocabulary"
    text: str = "Say what the text is about with one of the labels."
    width: int = 100

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        super().__post_init__()
        self.need_start(("vocabulary", "text", "labels", "random"))
        self.need(is_whole(self.width) and self.width >= 1, "width", "at least 1")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A branch at the embedding, and the scores of the labels."""
        words = self.words(backbone)
        site = EmbeddingSite(after_start=backbone.has_start)
        pool = PromptPool(
            site.sites,
            self.token_count(backbone, self.length, self.text),
            backbone.hidden_size,
            self.token_start(backbone, words, self.init, self.text),
        )
        policy = AttendedSources(backbone.query_size, pool, width=self.width)
        return self.tuned(backbone, words, site, pool, policy=policy)
