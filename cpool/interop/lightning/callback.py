"""TaskCallback: a Trainer begins a task before it makes its optimiser, and ends it after fit."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from cpool.errors import ConfigError, StateError
from cpool.interop.lightning.border import NextTask
from cpool.interop.lightning.module import PromptModule

__all__ = ["TaskCallback"]


class TaskCallback(Callback):
    """Begin a task before a Trainer makes its optimiser, and end it on its data after training.

    A new Trainer for each task. A task in which nothing trains (a closed-form head) has no epochs,
    and ends at once. Training that was interrupted has not ended its task: `fit` of a new Trainer,
    with the same task, goes on with it.

    Args:
        task: a task of a stream, or examples (`cpool.data.as_examples((x, y))`): then `fit` needs
            no loader. Or the class numbers of a task, for a loader of one's own.
        batches: with class numbers, the training data, for methods that read them before they
            train (`prompted.needs_start`); may be read more than once.

    Raises:
        DataError: no data or classes.
    """

    def __init__(
        self,
        task: Any,
        batches: Iterable[Mapping[str, Tensor]] = (),
    ) -> None:
        self.next = NextTask.of(task, batches)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the module which task is to begin; it does so after a checkpoint was read.

        Raises:
            ConfigError: another module, several devices, a Trainer that has trained before, or a
                method that needs more than it gets.
            StateError: another task is running.
        """
        if stage != "fit":
            return
        if not isinstance(pl_module, PromptModule):
            raise ConfigError(
                expected="a PromptModule",
                got=type(pl_module).__name__,
                remedy="Wrap the model: PromptModule(method.build(backbone)).",
            )
        if trainer.world_size > 1:
            raise ConfigError(
                expected="one process with one device, which sees all of the task's data",
                got=f"{trainer.world_size} processes",
                remedy="Use Trainer(devices=1, num_nodes=1), or cpool.Learner under "
                "`accelerate launch`.",
            )
        if trainer.fit_loop.epoch_progress.total.ready or trainer.global_step:
            raise ConfigError(
                expected="a new Trainer for each task",
                got=f"one that has trained {trainer.current_epoch} epochs",
                remedy="Make another Trainer, with a TaskCallback of the next task.",
            )
        pl_module.border.expect(self.next)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out the epochs of a task in which nothing trains."""
        assert isinstance(pl_module, PromptModule)
        if not pl_module.border.trains:
            trainer.fit_loop.max_epochs = 0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the task, also where training had ended in a checkpoint; write `last.ckpt` anew.

        Raises:
            StateError: something was to train, and no step was made.
        """
        assert isinstance(pl_module, PromptModule)
        if pl_module.border.trains and not trainer.global_step:
            raise StateError(
                expected="at least one step of training",
                got="none",
                remedy="Give the Trainer epochs and batches; the task is still running.",
            )
        # The Trainer has moved the model away from its device by now.
        home = pl_module.device
        pl_module.to(trainer.strategy.root_device)
        loader: Any = trainer.train_dataloader if pl_module.border.data is None else ()
        pl_module.end_task(loader if pl_module.prompted.needs_end else ())
        pl_module.to(home)
        for saved in trainer.checkpoint_callbacks:
            if isinstance(saved, ModelCheckpoint) and saved.save_last:
                self._write(trainer, saved)

    def _write(self, trainer: Trainer, saved: ModelCheckpoint) -> None:
        """Put the model after the task in place of what was written after its last epoch."""
        last = saved.last_model_path or saved.format_checkpoint_name({}, saved.CHECKPOINT_NAME_LAST)
        if Path(last).is_symlink():
            Path(last).unlink()
        trainer.save_checkpoint(last, saved.save_weights_only)
        saved.last_model_path = last
