"""CpoolModel: a prompted model as a `PreTrainedModel`: its tasks, its files, its rows of data."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from cpool.backbones import Backbone
from cpool.errors import CheckpointError, ConfigError, StateError
from cpool.interop.transformers.config import CpoolConfig, described, rebuilt
from cpool.interop.transformers.files import found
from cpool.model import PromptedModel

__all__ = ["Batches", "CpoolModel"]

Batches: TypeAlias = Iterable[Mapping[str, Tensor]]


class CpoolModel(PreTrainedModel):
    """Base of the prompted models that the tools of Hugging Face take; made by `of`.

    Args:
        config: what the model is.
        prompted: the model itself; built from the config when None.

    Attributes:
        prompted: the model; train it here, or with a `cpool.Learner` before.
        running: whether a task has begun and not ended.
        task: the task that is told at test, if one is.
        base: the hub id of the frozen model, where it was loaded from a folder; None otherwise.
    """

    config_class = CpoolConfig
    base_model_prefix = "prompted"

    def __init__(self, config: CpoolConfig, prompted: PromptedModel | None = None) -> None:
        super().__init__(config)
        self.prompted = rebuilt(config) if prompted is None else prompted
        self.running, self.task = False, None
        self.base: str | None = None
        self.post_init()
        self.train(self.prompted.training)

    def init_weights(self) -> None:
        """Leave the weights as the method made them."""

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self.prompted.backbone

    @property
    def dtype(self) -> torch.dtype:
        """Type of the frozen weights, which is what inputs are cast to."""
        return self.backbone.dtype

    @property
    def device(self) -> torch.device:
        """Where the frozen weights are."""
        return self.backbone.device

    # ---- tasks --------------------------------------------------------------------------------

    @abstractmethod
    def classes_of(self, task: Any) -> list[int]:
        """Return the classes that a task has to the parts below; after checking them."""

    @abstractmethod
    def runs(self, task: Any) -> bool:
        """Return whether the last task begun is this one."""

    def seen(self, batches: Batches, task: int) -> Batches:
        """Return batches of a Trainer as the parts below read them at the borders of a task."""
        return batches

    def begin_task(self, task: Any, batches: Batches = ()) -> int:
        """Freeze what is old, grow what is new, and return the number of the task.

        Args:
            task: the class numbers of the task; of a language model its name.
            batches: its training data, with labels; read only if `prompted.needs_start`.

        Raises:
            StateError: another task is running.
            ConfigError: a method that learns from more than batches.
            DataError: classes without a name, or one alone where those of the task compete.
        """
        if self.running:
            raise StateError(
                expected="a model between two tasks",
                got=f"task {len(self.prompted.tasks) - 1}, which has begun and not ended",
                remedy="Train it to its end, or load the model from before it.",
            )
        unfit = [rule for rule in self.prompted.each_rule() if rule.needs_raw or rule.judges]
        if unfit:
            raise ConfigError(
                expected="a method that learns from the batches of a Trainer",
                got=f"{type(unfit[0]).__name__}, which reads raw inputs or holds rows back",
                remedy="Train the model with cpool.Learner; a pipeline takes it afterwards.",
            )
        number = len(self.prompted.tasks)
        self.prompted.begin_task(self.classes_of(task), batches=self.seen(batches, number))
        self.running = True
        # What has grown is where the model is, but may be on the CPU in a method of one's own.
        self.prompted.to(self.device)
        self.train()
        return number

    def end_task(self, batches: Batches = ()) -> None:
        """Finish the task: routers and closed-form heads learn from its training data.

        Args:
            batches: with labels; read only if `prompted.needs_end`.
        """
        if not self.running:
            raise StateError(
                expected="a task that has begun",
                got="a model between two tasks",
                remedy="Call begin_task first; `TaskCallback` does.",
            )
        self.prompted.end_task(self.seen(batches, len(self.prompted.tasks) - 1))
        self.running = False
        self.eval()

    @property
    def told(self) -> int | None:
        """The task that is told outside of training: the running one, else `task`.

        Until a task ends nobody can infer it: routers and keys learn from its data at the end.
        """
        running = self.running and self.task is None
        return len(self.prompted.tasks) - 1 if running else self.task

    def task_of_step(self) -> int | None:
        """Return the task of a forward pass: in training the running one.

        Raises:
            StateError: no task is running, in training.
        """
        if not self.training:
            return self.told
        if not self.running:
            raise StateError(
                expected="a task that has begun, to train",
                got="a model between two tasks",
                remedy="Pass callbacks=[TaskCallback(…)] to the Trainer, or call begin_task first.",
            )
        return len(self.prompted.tasks) - 1

    def queries(self, inputs: Any) -> Tensor:
        """Return the queries of whole texts or images, some at a time: [n Q], on the CPU."""
        parts = [inputs[i : i + 64] for i in range(0, len(inputs), 64)]
        with torch.no_grad():
            made = [self.backbone.query(self.backbone.prepare(part)).cpu() for part in parts]
        return torch.cat(made)

    @property
    def wants_queries(self) -> bool:
        """Whether a step or the border of a task reads queries."""
        prompter = self.prompted.prompter
        return self.prompted.needs_query or (prompter is not None and prompter.needs_boundary)

    # ---- files --------------------------------------------------------------------------------

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> None:
        """Write config.json and model.safetensors: what is learned, never the frozen model.

        Args:
            save_directory: a folder; made if it is not there.
            is_main_process: as in transformers.
            state_dict: what to write in place of `state_dict()`.
            **options: of `PreTrainedModel.save_pretrained`, such as push_to_hub=True.
        """
        for key, value in described(self.prompted).items():
            setattr(self.config, key, value)
        if self.base is not None:
            self.config.base_model = {**self.config.base_model, "name": self.base}
        self.config.running = self.running
        # Copies: an output embedding may be tied to the input's, which the format has no place for.
        whole = self.state_dict() if state_dict is None else state_dict
        state = {key: value.detach().clone() for key, value in whole.items()}
        super().save_pretrained(save_directory, is_main_process, state, **options)

    def push_to_hub(self, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        """Upload what `save_pretrained` writes, as `PreTrainedModel.push_to_hub` does.

        Raises:
            ConfigError: the frozen model was loaded from a folder, which nobody else has.
        """
        name = self.base or self.backbone.name
        if Path(name).exists():
            raise ConfigError(
                expected="a frozen model that others can load by its name",
                got=f"{name}, a folder of this machine",
                remedy='Say its hub id: model.base = "organisation/name".',
            )
        return super().push_to_hub(*args, **options)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what is learned, all of it: a Trainer would pass over what does not fit.

        Raises:
            CheckpointError: tensors of another task, method or size.
        """
        try:
            return super().load_state_dict(state_dict, True, assign)
        except RuntimeError as error:
            raise CheckpointError(
                expected="a checkpoint of the model as it is now, in the same task",
                got=f"one that does not fit: {error}",
                remedy="Load the model as it was before the task, begin the task, then resume.",
            ) from error

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: CpoolConfig | None = None,
        backbone: Backbone | None = None,
        prompted: PromptedModel | None = None,
        dtype: Any = None,
        **options: Any,
    ) -> Any:
        """Load a model that `save_pretrained` wrote, and the frozen model that it names.

        Args:
            pretrained_model_name_or_path: a folder or a hub id.
            config: read from there when None.
            backbone: the frozen model; loaded by its name when None.
            prompted: a new model of the same build; only for a method of one's own.
            dtype: of the frozen weights; as they were when None or "auto".
            **options: of the hub, such as revision or token.

        Raises:
            CheckpointError: no such files, of another backbone, or written amid a task.
            ConfigError: an option that a frozen model cannot follow.
        """
        name = str(pretrained_model_name_or_path)
        config, weights = found(name, config, options)
        dtype = None if dtype == "auto" else dtype
        model = cls(config, rebuilt(config, backbone, prompted, dtype))
        model.load_state_dict(load_file(weights))
        model.name_or_path = config.name_or_path = name
        return model.eval()
