"""Prompt tuning (Lester et al., EMNLP 2021): learned tokens in front of a language model's text."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.heads import CompletionHead, Head
from cpool.language import LabelWords
from cpool.methods._language import LabelMethod
from cpool.model import PromptedModel
from cpool.pool import PromptPool
from cpool.prompter import EmbeddingSite
from cpool.readout import AnyReadout, CompletionReadout
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
    features chooses it, and the labels of its task compete. A prompt may start from that of an
    earlier task (SPoT, Vu et al., ACL 2022, https://arxiv.org/abs/2110.07904; there the source is
    the task whose trained prompt is most like the target's, here the one whose texts are).

    With `answers="completions"` each text has words of its own that shall follow it, and their
    probability is raised, as in the paper (`CompletionHead`; rows from `cpool.data.as_completions`,
    for instance). Then a class is a task, and the template should end where the words begin.

    Attributes:
        length: n, prompt tokens; None takes as many as `text` has.
        init: "vocabulary": tokens drawn from the first 5,000; "text": those of `text`; "labels":
            the mean of each label's tokens, then vocabulary; "random": U(-0.5, 0.5), as in PEFT.
        text: a hard prompt to start from, for "text".
        slots: one prompt a "task", or one "shared" by all.
        start: what the prompt of a later task starts from: "fresh" from `init` again, "last" the
            task before, "nearest" the task whose mean unprompted feature is nearest.
        answers: "labels" of the task, or "completions", which each text has with it.
        forgettable: keep what the router needs to take a task out again (`cpool.exact.forget`), Q²
            numbers a task; with slots="task".
        calibrate: take off the scores after texts without content when a task ends, see `ZeroShot`;
            with slots="shared".
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
    start: Literal["fresh", "last", "nearest"] = "fresh"
    answers: Literal["labels", "completions"] = "labels"
    forgettable: bool = False
    calibrate: bool = False

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        super().__post_init__()
        self.need_one_prompt()
        self.need_start(("vocabulary", "text", "labels", "random"))
        self.need(
            self.start == "fresh" or (self.start in ("last", "nearest") and self.slots == "task"),
            "start",
            '"fresh", or "last" or "nearest" with slots="task"',
        )
        self.need(self.answers in ("labels", "completions"), "answers", '"labels" or "completions"')
        if self.answers == "completions":
            self.need(self.labels is None, "labels", 'None with answers="completions"')
            self.need(self.init != "labels", "init", 'other than "labels" for completions')
            self.need(not self.calibrate, "calibrate", 'false with answers="completions"')

    def answer(self, words: LabelWords, routed: bool) -> tuple[Head, AnyReadout]:
        """Return what scores labels, or completions."""
        if self.answers == "labels":
            return super().answer(words, routed)
        return CompletionHead(routed=routed), CompletionReadout()

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
        return self.tuned(backbone, words, site, pool, self.start)
