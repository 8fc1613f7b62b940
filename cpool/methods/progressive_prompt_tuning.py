"""Progressive Prompts in words: a prompt a task, in front of the old, and a label that is named."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.methods._language import LabelMethod
from cpool.model import PromptedModel
from cpool.policies import UpToTask
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, Prompter
from cpool.settings import TrainSettings

__all__ = ["ProgressivePromptTuning"]


@dataclass(frozen=True)
class ProgressivePromptTuning(LabelMethod):
    r"""`log p(label | [P_t; P_{t−1}; …; P_1; template(x)])`: P_t learns, older prompts are frozen.

    Progressive Prompts (Razdaibiedina et al., ICLR 2023, https://arxiv.org/abs/2301.12314) as their
    T5 answers, with words; `ProgressivePrompts` puts a linear head behind the same prompts. Loss:
    CE over the scores of the labels of the task. The task is known at test, so what was learned
    stays exactly as it was; `known_task=False` gives every sample the prompts of all tasks, and
    all labels compete: then later prompts change what earlier labels get.

    Left out: the MLP that the paper optionally trains a prompt through. Its code raises the right
    label alone, where all labels of the task compete here, as at test; it trains at a rate of 0.3.

    Attributes:
        length: n, tokens of each task's prompt; None takes as many as `text` has.
        init: how each prompt starts, as for `PromptTuning`; the paper draws words.
        text: a hard prompt to start from, for "text".
        known_task: whether the task is told at test.
    """

    name: ClassVar[str] = "progressive_prompt_tuning"
    summary: ClassVar[str] = "a prompt a task before all older ones, labels in words"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=0.01, epochs=10, batch_size=8, schedule="cosine"
    )
    slots: ClassVar[str] = "task"

    length: int | None = 10
    init: Literal["vocabulary", "text", "labels", "random"] = "vocabulary"
    text: str = "Say what the text is about with one of the labels."
    known_task: bool = True

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        super().__post_init__()
        self.need_start(("vocabulary", "text", "labels", "random"))
        self.need(isinstance(self.known_task, bool), "known_task", "true or false")

    @property
    def needs_task(self) -> bool:  # type: ignore[override]
        """Whether it must be told the task of a sample at test: read it from the instance."""
        return self.known_task

    def compose(self, backbone: Backbone) -> PromptedModel:
        """One branch at the embedding that grows by a slot each task, and scores of the labels."""
        words, site = self.words(backbone), EmbeddingSite(after_start=backbone.has_start)
        pool = PromptPool(
            site.sites,
            self.token_count(backbone, self.length, self.text),
            backbone.hidden_size,
            self.token_start(backbone, words, self.init, self.text),
        )
        branch = Branch("progressive", pool, UpToTask(), site, per_task=1)
        # The newest slot is chosen first, and answers for its task.
        return self.model(backbone, words, Prompter([branch]), routed=self.known_task)
