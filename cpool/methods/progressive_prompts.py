"""Progressive Prompts (Razdaibiedina et al., ICLR 2023): a prompt a task, in front of the old."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.heads import ExpertHead, Head, LinearHead
from cpool.initialisers import uniform
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import UpToTask
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, Prompter
from cpool.settings import TrainSettings, is_number

__all__ = ["ProgressivePrompts"]


@dataclass(frozen=True)
class ProgressivePrompts(Method):
    """`x_t = [P_t; P_{t−1}; …; P_1; x]`: P_t learns while the older prompts are frozen.

    Loss: CE over the classes of task t. The task is known at test, so a sample of task t is
    answered with the prompts 1 … t and the head of task t: what was learned stays exactly as it
    was (https://arxiv.org/abs/2301.12314, section 3; order and mask as in its T5 code, newest in
    front). `[CLS]`, where there is one, stays in front of all prompts.

    `known_task=False` makes a class-incremental method of it: every sample gets the prompts of
    all tasks, and one head over all classes. Then the prompts of later tasks do change what
    earlier classes get, and forgetting is possible; figures of the two do not compare.

    Left out: the MLP that the paper optionally trains a prompt through; long inputs are cut for
    all prompts together, where its code cuts after joining. Its T5 answers with words, where a
    linear head reads the encoder here; `ProgressivePromptTuning` answers as it does. The paper
    trains T5 with lr 0.3 from rows of the vocabulary; here prompts start from U(-init, init).

    Attributes:
        length: tokens of each task's prompt.
        known_task: whether the task is told at test.
        init: prompts start from U(-init, init).
    """

    name: ClassVar[str] = "progressive_prompts"
    summary: ClassVar[str] = "a prompt a task before all older ones (Razdaibiedina et al. 2023)"
    train: ClassVar[TrainSettings] = TrainSettings(lr=0.03, epochs=10)

    length: int = 10
    known_task: bool = True
    init: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        self.need(isinstance(self.known_task, bool), "known_task", "true or false")
        self.need(is_number(self.init) and self.init > 0, "init", "above 0 and finite")

    @property
    def needs_task(self) -> bool:  # type: ignore[override]
        """Whether it must be told the task of a sample at test: read it from the instance."""
        return self.known_task

    def compose(self, backbone: Backbone) -> PromptedModel:
        """One branch at the embedding that grows by a slot each task."""
        site = EmbeddingSite()
        init = uniform(-self.init, self.init)
        pool = PromptPool(site.sites, self.length, backbone.hidden_size, init)
        branch = Branch("progressive", pool, UpToTask(), site, per_task=1)
        size = backbone.query_size
        head: Head = LinearHead(size)
        if self.known_task:
            # The newest slot is chosen first, so the expert of a sample is its task's.
            head = ExpertHead(size, lambda: LinearHead(size))
        return PromptedModel(backbone, head, Prompter([branch]), readout="query")
