"""Multitask prompt tuning (Wang et al., ICLR 2023): a shared prompt, and a small part a task."""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.low_rank_pool import LowRankPool
from cpool.methods._language import LabelMethod
from cpool.methods.prompt_tuning import PromptTuning
from cpool.model import PromptedModel
from cpool.prompter import EmbeddingSite
from cpool.rules import PromptTeacher
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["MultitaskPromptTuning"]


@dataclass(frozen=True)
class MultitaskPromptTuning(LabelMethod):
    r"""`log p(label | [P_k; template(x)])`, `P_k = P* ⊙ (u_k v_kᵀ)`, u_k ∈ R^{n×r}, v_k ∈ R^{r×d}.

    P* ∈ R^{n×d} belongs to all tasks and a task keeps r (n + d) numbers of its own
    (https://arxiv.org/abs/2303.02861). Loss and choice at test as in `PromptTuning`.

    What differs here: the paper trains P* on all source tasks at once and gives it to the tasks to
    come. On a stream P* trains with the first `shared_tasks` tasks, one after the other, and is
    frozen then; a prompt is bit-identical from there on. Above 1 the tasks among them share P* and
    move while the later of them train: they can forget. A later task starts from the mean of
    all u and v so far. With `distil` above 0 each of the first `shared_tasks` tasks has a teacher,
    a prompt trained on the task alone (`cpool.rules.PromptTeacher`; λ is 0.9 in the paper): it
    costs a training of its own and three more passes a step, and is kept by nobody, so that neither
    the parameters nor the bytes of a task count it.

    Attributes:
        length: n, prompt tokens; None takes as many as `text` has.
        init: how P* starts, as for `PromptTuning`; the first task starts from P* itself.
        text: a hard prompt to start from, for "text".
        rank: r.
        shared_tasks: how many tasks train P*.
        distil: λ, weight of the teachers in the loss; 0 has none.
        teacher_epochs: passes of a teacher over its task.
        teacher_lr: learning rate of a teacher.
    """

    name: ClassVar[str] = "multitask_prompt"
    summary: ClassVar[str] = "a shared prompt times a low-rank part a task (Wang et al. 2023)"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=0.01, epochs=10, batch_size=8, schedule="cosine"
    )
    slots: ClassVar[str] = "task"

    length: int | None = 20
    init: Literal["vocabulary", "text", "labels", "random"] = "vocabulary"
    text: str = "Say what the text is about with one of the labels."
    rank: int = 1
    shared_tasks: int = 1
    distil: float = 0.0
    teacher_epochs: int = 10
    teacher_lr: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        super().__post_init__()
        self.need_start(("vocabulary", "text", "labels", "random"))
        for key in ("rank", "shared_tasks"):
            value = getattr(self, key)
            self.need(is_whole(value) and value >= 1, key, "at least 1")
        self.need(is_number(self.distil) and self.distil >= 0, "distil", "at least 0")
        whole = is_whole(self.teacher_epochs) and self.teacher_epochs >= 1
        self.need(whole, "teacher_epochs", "at least 1")
        above = is_number(self.teacher_lr) and self.teacher_lr > 0
        self.need(above, "teacher_lr", "above 0")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A branch at the embedding, and the scores of the labels."""
        words = self.words(backbone)
        site = EmbeddingSite(after_start=backbone.has_start)
        pool = LowRankPool(
            site.sites,
            self.token_count(backbone, self.length, self.text),
            backbone.hidden_size,
            self.token_start(backbone, words, self.init, self.text),
            rank=self.rank,
            shared_blocks=self.shared_tasks,
        )
        model = self.tuned(backbone, words, site, pool)
        if self.distil:
            teacher = PromptTeacher(
                lambda: self._alone(backbone),
                tasks=self.shared_tasks,
                strength=self.distil,
                epochs=self.teacher_epochs,
                lr=self.teacher_lr,
            )
            model.rules.append(teacher)
        return model

    def _alone(self, backbone: Backbone) -> PromptedModel:
        """Return a prompt for one task, with what is said around a text the same."""
        same = {f.name: getattr(self, f.name) for f in fields(LabelMethod)}
        return PromptTuning(
            **same, length=self.length, init=self.init, text=self.text, slots="shared"
        ).build(backbone)
