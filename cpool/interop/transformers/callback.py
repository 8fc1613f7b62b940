"""TaskCallback: a Trainer begins a task when it is made, and ends it when training ends."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from cpool.errors import ConfigError, StateError
from cpool.interop.transformers.model import CpoolModel

__all__ = ["TaskCallback"]


class TaskCallback(TrainerCallback):
    """Begin a task when the Trainer is made, and end it on the Trainer's data after training.

    A new Trainer with the same task goes on with one that an error or an interrupt left unfinished.

    Args:
        task: the class numbers of the task; of a language model its name.
        batches: its training data, for methods that read them before they train
            (`prompted.needs_start`).
    """

    def __init__(
        self, task: Sequence[int] | str, batches: Iterable[Mapping[str, Tensor]] = ()
    ) -> None:
        self.task, self.batches = task, batches

    def on_init_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        **rest: Any,
    ) -> None:
        """Begin the task: before the optimiser is made, which has to know what has grown.

        Raises:
            ConfigError: a model that no Trainer can train in this task, or several processes.
            StateError: another task is running.
        """
        if not isinstance(model, CpoolModel):
            raise ConfigError(
                expected="a model of cpool.interop.transformers",
                got=type(model).__name__,
                remedy="Wrap it: CpoolForSequenceClassification.of(model, labels), for example.",
            )
        if args.world_size > 1 or args.n_gpu > 1:
            raise ConfigError(
                expected="one process with one device, which sees all of the task's data",
                got=f"{args.world_size} processes, {args.n_gpu} devices",
                remedy="Set CUDA_VISIBLE_DEVICES to one, or train with cpool.Learner.",
            )
        if model.prompted.rates and optimizer is None:
            raise ConfigError(
                expected="an optimiser that knows the rates of the method's parts",
                got=f"the Trainer's own, and rates={model.prompted.rates}",
                remedy="Call model.begin_task first, and pass optimizers=(make_optimizer("
                "model.prompted, settings), None) of cpool.optimise.",
            )
        if not model.running:
            self._begin(model)
        elif not model.runs(self.task):
            raise StateError(
                expected=f"task {self.task!r}, or a model between two tasks",
                got=f"another task, {len(model.prompted.tasks) - 1}, that has begun",
                remedy="Train that one to its end first.",
            )

    def _begin(self, model: Any) -> None:
        number = len(model.prompted.tasks)
        if not model.prompted.trains(number):
            raise ConfigError(
                expected=f"something that trains in task {number}",
                got="nothing: the method is fitted in closed form",
                remedy="Call model.begin_task(task) and model.end_task(batches) without a Trainer.",
            )
        model.begin_task(self.task, self.batches)

    def on_train_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        train_dataloader: Any = None,
        **rest: Any,
    ) -> None:
        """End the task on the data that it was trained on."""
        model.end_task(train_dataloader if model.prompted.needs_end else ())
