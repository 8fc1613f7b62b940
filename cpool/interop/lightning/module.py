"""PromptModule: a prompted model as a LightningModule; steps, optimiser, checkpoints."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from cpool.data import as_examples
from cpool.errors import CheckpointError, ConfigError, DataError, StateError
from cpool.feed import Feed
from cpool.interop.lightning.border import Border, NextTask
from cpool.interop.lightning.loader import TaskLoader
from cpool.interop.lightning.state import KEY, check_entry, check_running, entry_of
from cpool.model import PromptedModel
from cpool.optimise import make_optimizer
from cpool.output import Output
from cpool.settings import TrainSettings

__all__ = ["PromptModule"]


class PromptModule(LightningModule):
    """A prompted model for the Trainer of Lightning; a new Trainer, with a `TaskCallback`, a task.

    With the same seed, data and settings it learns what `cpool.Learner` learns. Batches are
    mappings with "labels", as `prompted.prepare` and `cpool.batches` make them; those of `loader`,
    and those that the module makes where `fit` gets none, hold what was computed before.

    Optimiser, rates of the method's parts, schedule and clipping are those of the settings; epochs
    are the Trainer's: `Trainer(max_epochs=module.settings.epochs)`. The frozen backbone is outside
    of the module tree, so that no checkpoint holds it.

    Logged are "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss" and
    "test_accuracy". While a task is running, a batch of its classes is answered with the task
    told; afterwards nobody tells it, unless `task` does.

    Args:
        prompted: from `method.build(backbone)`, or a trained one.
        train: how to train; the method's own settings by default.
        seed: of everything random in training.
        **changes: single training settings, such as `lr=0.01`.

    Attributes:
        settings: how it is trained.
        task: the number of the task that is told at test; None for none.
        running: whether a task has begun and not ended.

    Example:
        >>> import cpool
        >>> from lightning.pytorch import Trainer
        >>> stream = cpool.load_stream("split_digits", tasks=2, train_per_class=8)
        >>> prompted = cpool.L2P(pool_size=4, top_k=2).build(cpool.load_backbone("embedded"))
        >>> module = PromptModule(prompted, epochs=1, batch_size=16)
        >>> module.begin_task(stream[0])
        0
        >>> len(module.train_dataloader()), module.prompted.classes
        (3, [2, 3, 4, 6, 7])
    """

    def __init__(
        self,
        prompted: PromptedModel,
        train: TrainSettings | None = None,
        *,
        seed: int = 0,
        **changes: Any,
    ) -> None:
        super().__init__()
        base = train or (prompted.method.settings if prompted.method else TrainSettings())
        self.settings = base.but(**changes)
        self.prompted, self.seed = prompted, seed
        prompted.compete(self.settings)
        self.task: int | None = None
        self.feed = Feed(prompted, self.settings.batch_size)
        self.border = Border(self.feed, self.settings, seed)
        self._loader: TaskLoader | None = None
        self._resumed: Mapping[str, Any] | None = None  # where the loader of the task goes on

    @property
    def running(self) -> bool:
        """Whether a task has begun and not ended."""
        return self.border.running

    @property
    def classes(self) -> list[int]:
        """The classes seen so far, in the order of the columns of probabilities."""
        return self.prompted.classes

    # ---- tasks --------------------------------------------------------------------------------

    def begin_task(self, task: Any, batches: Iterable[Mapping[str, Tensor]] = ()) -> int:
        """Begin a task by hand, as `TaskCallback` does; return its number.

        Args:
            task: as for `TaskCallback`.
            batches: likewise.

        Raises:
            StateError, ConfigError, DataError: as `TaskCallback`.
        """
        self.border.expect(NextTask.of(task, batches))
        return self._begin()

    def end_task(self, batches: Iterable[Mapping[str, Tensor]] = ()) -> None:
        """End the running task: keys, closed-form heads and memories learn from its data.

        Args:
            batches: its training data with "labels", where the task was begun without data; read
                only if `prompted.needs_end`.

        Raises:
            StateError: no task is running.
        """
        self.border.end(batches)
        self._loader = self._resumed = None

    def _begin(self) -> int:
        number = self.border.begin()
        self._loader = self._resumed = None
        return number

    # ---- data ---------------------------------------------------------------------------------

    def loader(self, data: Any) -> DataLoader[Any]:
        """Return batches to validate, test or predict with.

        Args:
            data: examples, a pair (x, y), or inputs alone (labels 0).
        """
        return self.feed.loader(as_examples(data), fixed=False)

    def train_dataloader(self) -> TaskLoader:
        """Return the batches of the task that `TaskCallback` has begun, in `cpool.Learner`'s order.

        Raises:
            ConfigError: the callback knows no data.
        """
        if self.border.data is None:
            raise ConfigError(
                expected="the training data of a running task",
                got="none",
                remedy="Use TaskCallback(stream[0]), or pass a loader to fit.",
            )
        self._loader = self.border.data.training(self.border.draws)
        if self._resumed is not None:
            self._loader.load_state_dict(self._resumed)
        return self._loader

    # ---- steps --------------------------------------------------------------------------------

    def forward(self, batch: Mapping[str, Tensor], task: int | None = None) -> Output:
        """Answer a batch; see `PromptedModel.forward`."""
        output: Output = self.prompted(batch, task=task)
        return output

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Float[Tensor, ""]:
        """Return the loss of a batch of the running task.

        Raises:
            DataError: a loss that is not finite; nothing was changed.
        """
        number = len(self.prompted.tasks) - 1
        with self.border.draws():
            output = self(batch, number)
        if output.loss is None or not torch.isfinite(output.loss):
            raise DataError(
                expected='batches with "labels", and a finite loss',
                got="no labels" if output.loss is None else f"{float(output.loss.detach())}",
                remedy="Lower lr, clip more (clip_norm), or look for NaN in the inputs.",
            )
        self._log("train", output, batch["labels"])
        loss: Tensor = output.loss
        return loss

    def validation_step(
        self, batch: Mapping[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Log loss and accuracy of a batch.

        Lightning's sanity check before the first step has nothing to look at: a slot that was
        never trained cannot be picked.
        """
        if not (self.running and self.trainer.sanity_checking):
            self._log("val", self._answer(batch), batch["labels"])

    def test_step(
        self, batch: Mapping[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Log loss and accuracy of a batch."""
        self._log("test", self._answer(batch), batch["labels"])

    def predict_step(
        self, batch: Mapping[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> Float[Tensor, "B C"]:
        """Return the probability of each class, columns as in `classes`."""
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        return self._answer(inputs).logits.float().softmax(dim=1)

    def _answer(self, batch: Mapping[str, Tensor]) -> Output:
        told = self.task
        if self.running and told is None and "labels" in batch:
            mine = torch.tensor(self.prompted.tasks[-1], device=batch["labels"].device)
            # Until a task ends nobody can infer it: keys and routers learn from its data then.
            told = len(self.prompted.tasks) - 1 if torch.isin(batch["labels"], mine).all() else None
        try:
            return self.forward(batch, told)
        except Exception as error:
            if not self.running or told is not None or isinstance(error, DataError):
                raise
            raise StateError(
                expected="a method that answers while a task is learned",
                got=f"{self.prompted.method}, which cannot before the task has ended ({error})",
                remedy="Leave val_dataloaders out of fit, and call Trainer.validate after it.",
            ) from error

    def _log(self, phase: str, output: Output, labels: Int[Tensor, " B"]) -> None:
        logits, classes = output.logits.detach(), self.prompted.classes
        if phase == "train" and self.prompted.mask == "task":
            away = [c not in self.prompted.tasks[-1] for c in classes]
            logits = logits.masked_fill(torch.tensor(away, device=logits.device), -torch.inf)
        found = torch.tensor(classes, device=logits.device)[logits.argmax(dim=1)]
        right = (found == labels.to(found.device)).float().mean()
        size = len(labels)
        assert output.loss is not None
        self.log(f"{phase}_loss", output.loss.detach(), prog_bar=True, batch_size=size)
        self.log(f"{phase}_accuracy", right, prog_bar=True, batch_size=size)

    # ---- optimisation -------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Begin the task that is expected, and make a new optimiser over what trains now.

        Here a checkpoint has been read, and the model is where it trains. A class of one's own that
        makes another optimiser calls this first.

        Raises:
            StateError: no task is running or expected.
            ConfigError: a cosine schedule in a Trainer without an end.
        """
        if self.border.expected is not None:
            self._begin()
        if not self.running:
            raise StateError(
                expected="a task that has begun, to train",
                got="a model between two tasks",
                remedy="Pass callbacks=[TaskCallback(task)] to the Trainer.",
            )
        if not self.border.trains:
            return []
        optimizer = make_optimizer(self.prompted, self.settings)
        if self.settings.schedule == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf") or steps < 1:
            raise ConfigError(
                expected="a known number of steps, over which the rate falls to 0",
                got=f"{steps}",
                remedy="Set max_epochs or max_steps of the Trainer.",
            )
        schedule = CosineAnnealingLR(optimizer, int(steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the settings say, unless the Trainer says something."""
        value = gradient_clip_val
        if value is None and self.settings.clip_norm:
            value, gradient_clip_algorithm = self.settings.clip_norm, "norm"
        self.clip_gradients(optimizer, value, gradient_clip_algorithm)

    def on_fit_start(self) -> None:
        """Put all parts into training mode.

        Raises:
            StateError: the task that is expected has not begun.
        """
        if self.border.expected is not None:
            raise StateError(
                expected="configure_optimizers of PromptModule, which begins the task",
                got=f"that of {type(self).__name__}, which did not call it",
                remedy="Call super().configure_optimizers() before making another optimiser.",
            )
        self.train()

    def on_train_start(self) -> None:
        """Refuse rows that were to be kept from training.

        Raises:
            ConfigError: a method that judges itself on held-out rows, and a loader of one's own.
        """
        if self.prompted.held_out and self._loader is None:
            raise ConfigError(
                expected="training without the rows that the method judges itself on",
                got="a loader of your own",
                remedy="Leave train_dataloaders out of fit: the module makes them.",
            )

    # ---- checkpoints --------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes the model again: layout, and amid a task where it stands."""
        entry = entry_of(self.prompted, self.running, self._settings())
        if self.running:
            entry["draws"] = list(self.border.draws.states)
            entry["loader"] = None if self._loader is None else self._loader.state_dict()
        checkpoint[KEY] = entry

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the tensors of a checkpoint, so that they can be loaded.

        One that was written between two tasks gives the model alone, and `fit` begins the next
        task. One that was written amid a task goes on with it, in a model as it was before it.

        Raises:
            CheckpointError: of another model, or amid another task.
        """
        entry = check_entry(checkpoint, self.prompted)
        if entry["running"]:
            self._resume(entry)
            return
        self.prompted.restore(entry["layout"])
        self.border.reset()
        # Of the last task: epochs, optimiser and best checkpoints are no concern of the next.
        for key in ("loops", "callbacks"):
            checkpoint.pop(key, None)
        checkpoint.update(optimizer_states=[], lr_schedulers=[])

    def _resume(self, entry: Mapping[str, Any]) -> None:
        if self.border.expected is not None:
            self._begin()
        if not self.running:
            raise CheckpointError(
                expected="a model whose tasks have ended",
                got=f"one in the middle of task {len(entry['layout']['tasks']) - 1}",
                remedy="Go on with it: fit with the same TaskCallback and this ckpt_path. After "
                "fit, Trainer.save_checkpoint writes the whole; so does "
                "ModelCheckpoint(save_last=True).",
            )
        check_running(entry, self.prompted, self._settings())
        for rule, part in zip(self.prompted.each_rule(), entry["layout"]["rules"], strict=True):
            if rule.layout() != part:
                rule.restore(part)
        self.border.draws.states = [state.cpu() for state in entry["draws"]]
        self._resumed = entry["loader"]

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what is learned.

        Raises:
            CheckpointError: tensors of another task, method or size.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            raise CheckpointError(
                expected="a checkpoint of the same model",
                got=f"one that does not fit: {error}",
                remedy="Build the model with the same method and hyper-parameters.",
            ) from error

    def _settings(self) -> Mapping[str, Any]:
        return {**self.settings.__dict__, "seed": self.seed}
