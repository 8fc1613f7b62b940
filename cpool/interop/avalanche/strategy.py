"""PromptStrategy: cpool's own learner as one strategy of Avalanche."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch.utils.data import DataLoader

from cpool.errors import ConfigError
from cpool.interop.avalanche.inputs import check_rows, raw_inputs
from cpool.interop.avalanche.model import AvalancheModel, ToldAvalancheModel
from cpool.learner import Learner

__all__ = ["PromptStrategy"]

# What Avalanche calls in a step of training, or to change its data; the learner calls none.
STEPS = (
    "after_train_dataset_adaptation",
    "before_training_iteration",
    "before_forward",
    "after_forward",
    "before_backward",
    "after_backward",
    "before_update",
    "after_update",
    "after_training_iteration",
)
BASE = {step: getattr(SupervisedPlugin, step, None) for step in STEPS}


class PromptStrategy(SupervisedTemplate):  # type: ignore[misc]  # untyped base
    """Learn each experience with `cpool.Learner`, and evaluate and log with Avalanche.

    The learner makes the optimiser, the order of samples and the steps, so that plugins which look
    into the steps of training are refused: for those there is `PromptPoolPlugin`. What a learner
    keeps of a frozen backbone's work, this strategy keeps, too.

    Args:
        learner: a new one; `learner.model` may be of any method.
        told: whether the benchmark's task labels are told at test.
        class_names: what class number i is called, for methods that answer with words.
        eval_mb_size: samples a batch at test.
        plugins: that look at experiences, not at steps.
        evaluator: of Avalanche.
        eval_every: as in Avalanche, −1 or 0.

    Raises:
        ConfigError: a learner that has learned already, or a plugin of steps.
    """

    def __init__(
        self,
        *,
        learner: Learner,
        told: bool = False,
        class_names: Sequence[str] | None = None,
        eval_mb_size: int = 64,
        plugins: Sequence[Any] | None = None,
        evaluator: Any = default_evaluator,
        eval_every: Literal[-1, 0] = -1,
    ) -> None:
        for plugin in plugins or ():
            used = [s for s in STEPS if getattr(type(plugin), s, None) is not BASE.get(s)]
            if used:
                raise ConfigError(
                    expected="plugins that look at experiences",
                    got=f"{type(plugin).__name__}, which has {used[0]}",
                    remedy="Use it with PromptPoolPlugin on Naive.",
                )
        if learner.done:
            raise ConfigError(
                expected="a new learner",
                got=f"one that has learned {len(learner.done)} tasks",
                remedy="Make a new Learner; a strategy resumes by Avalanche's own checkpoints.",
            )
        model = (ToldAvalancheModel if told else AvalancheModel)(learner.model)
        learner.model.compete(learner.train)
        self.learner = learner
        if class_names is not None:
            learner.model.name_classes(class_names)
        super().__init__(
            model=model,
            optimizer=torch.optim.SGD([model.idle], lr=0.0),  # never steps
            train_mb_size=learner.train.batch_size,
            eval_mb_size=eval_mb_size,
            device=learner.device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
        )

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Make one as ever, to see whether a plugin puts another in its place."""
        check_rows(self.experience.dataset)
        super().make_train_dataloader(**kwargs)
        self._made = self.dataloader

    def make_optimizer(self, **_: Any) -> None:
        """Do nothing: the learner makes one for each task."""

    def _train_exp(self, experience: Any, eval_streams: Any = None, **_: Any) -> None:
        if isinstance(experience, OnlineCLExperience):
            raise ConfigError(
                expected="experiences that are whole tasks",
                got="one of an online stream",
                remedy="Use PromptPoolPlugin on Naive with access_task_boundaries=True.",
            )
        if self.dataloader is not self._made:
            raise ConfigError(
                expected="plugins that look at experiences",
                got="one that replaces the batches of training, such as replay",
                remedy="Use it with PromptPoolPlugin on Naive.",
            )
        data = experience.dataset.train()
        x, y, *_ = next(iter(DataLoader(data, batch_size=len(data))))
        number = len(self.learner.done)
        name = f"experience {experience.current_experience}"
        self.learner.fit_task((raw_inputs(x), y.numpy()), name)
        model = self.model
        model.width = max(model.width, *(c + 1 for c in self.learner.classes))
        if isinstance(model, ToldAvalancheModel):
            model.tell(data.targets_task_labels.uniques, number)

    def _before_eval_exp(self, **kwargs: Any) -> None:
        check_rows(self.experience.dataset)
        super()._before_eval_exp(**kwargs)
        last = max(self.experience.dataset.targets.uniques)
        self.model.width = max(self.model.width, int(last) + 1)
