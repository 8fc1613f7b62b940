"""HiDe-Prompt (Wang et al., NeurIPS 2023): infer the task, use its prompt, align the head."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.heads import LinearHead
from cpool.initialisers import from_slot, uniform
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.momentum_pool import MomentumPool
from cpool.policies.task_inference import TaskInference
from cpool.prompter import Branch, PrefixSite, Prompter
from cpool.rule import Rule
from cpool.rules.alignment import GaussianAlignment
from cpool.rules.contrast import MeanContrast
from cpool.settings import TrainSettings, is_number

__all__ = ["HiDePrompt"]


@dataclass(frozen=True)
class HiDePrompt(Method):
    """Three parts, each trained for itself (https://arxiv.org/abs/2310.07234).

    (1) Which task: a small network on unprompted features, kept fair between tasks by draws from
    a Gaussian of each class (`TaskInference`). (2) Within the task: a prefix a task,
    `p = (1 − α) p_t + α mean_{s<t} p_s` (`MomentumPool`), trained by CE plus λ times a contrast
    of features with one another and with the class means of earlier tasks (`MeanContrast`).
    (3) The head, trained again on draws of prompted features (`GaussianAlignment`).

    Where paper and code differ: α = 0.01 and the rates are the code's; it keeps ten centroids and
    variances a class by default, here it is the paper's Gaussian; its retraining uses only as
    many batches as there are old classes, here all draws are used; its rates are multiplied by
    batch / 256. Its reshape of the prefixes mixes samples, and keys with values; here they cannot
    mix. Inferred is a task for each sample, never one for the batch.

    A task is inferred by the class: a class belongs to the last task that had it. Where tasks share
    classes, later tasks take them over, and where all do (domain-incremental streams) every sample
    gets the newest prefix and the earlier ones are never chosen again; each Gaussian is of all
    samples of its class. Choose `SPrompts` there, whose tasks are told apart by their inputs.

    Attributes:
        layers: layer numbers, from 0; None for the first five, or all where there are fewer.
        length: prefix tokens a layer.
        momentum: α.
        contrast, temperature: λ and τ of the contrast.
        init: the first prefix starts from U(-init, init), later ones from the one before.
        infer_epochs: of task inference on the task's queries.
        align_epochs, align_lr, per_class: of both trainings on draws.
        covariance: of both kinds of Gaussians; "diagonal" keeps one row a class.
    """

    name: ClassVar[str] = "hide_prompt"
    summary: ClassVar[str] = "inferred task, its prefix, a head aligned on Gaussians (Wang 2023)"
    train: ClassVar[TrainSettings] = TrainSettings(lr=0.003, epochs=20)

    layers: tuple[int, ...] | None = None
    length: int = 5
    momentum: float = 0.01
    contrast: float = 0.1
    temperature: float = 0.8
    init: float = 1.0
    infer_epochs: int = 20
    align_epochs: int = 30
    align_lr: float = 0.005
    per_class: int = 256
    covariance: Literal["full", "diagonal"] = "full"

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        self.need(is_number(self.init) and self.init > 0, "init", "above 0 and finite")
        self.need(is_number(self.contrast) and self.contrast >= 0, "contrast", "at least 0, finite")
        self.need(is_number(self.temperature) and self.temperature > 0, "temperature", "above 0")
        self.need_layers("layers")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A branch of prefixes whose task is inferred, and two rules."""
        layers = tuple(range(min(5, backbone.num_layers))) if self.layers is None else self.layers
        site, width = PrefixSite(layers, backbone.num_kv_heads), backbone.query_size
        pool = MomentumPool(
            site.sites,
            self.length,
            backbone.num_kv_heads * backbone.head_dim,
            uniform(-self.init, self.init),
            momentum=self.momentum,
        )
        policy = TaskInference(
            width,
            epochs=self.infer_epochs,
            per_class=self.per_class,
            replay_epochs=self.align_epochs,
            replay_lr=self.align_lr,
            covariance=self.covariance,
        )
        align = GaussianAlignment(
            width,
            per_class=self.per_class,
            epochs=self.align_epochs,
            lr=self.align_lr,
            covariance=self.covariance,
        )
        rules: list[Rule] = [align]
        if self.contrast:
            rules.append(
                MeanContrast(align.gaussians, weight=self.contrast, temperature=self.temperature)
            )
        branch = Branch(
            "expert", pool, policy, site, per_task=1, init_next=lambda pool: from_slot(pool, -1)
        )
        return PromptedModel(
            backbone, LinearHead(width), Prompter([branch]), rules=rules, rates={"head": 0.1}
        )
