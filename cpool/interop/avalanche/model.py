"""AvalancheModel: a prompted model as a strategy of Avalanche wants one, tensor in, logits out."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from avalanche.models import MultiTaskModule
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpool.draws import Draws
from cpool.errors import ConfigError, DataError, StateError
from cpool.interop.avalanche.inputs import raw_inputs
from cpool.model import PromptedModel
from cpool.output import Output

__all__ = ["AvalancheModel", "Step", "ToldAvalancheModel"]


class Step:
    """What the last pass in training computed; a copy of a model is made without it."""

    def __init__(self) -> None:
        self.batch: dict[str, Tensor] | None = None
        self.output: Output | None = None
        self.logits: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> "Step":
        # Tensors of a graph cannot be copied, and a teacher needs none of them.
        return Step()

    def __reduce__(self) -> tuple[Any, ...]:
        return Step, ()


class AvalancheModel(nn.Module):
    """Logits [B C], a column for every class number, −inf for classes that no task has brought.

    (In training these are the lowest of the sample's logits, and `PromptPoolPlugin` leaves them out
    of the loss.)

    `parameters()` holds what trains in this task. The frozen backbone is in no module tree, so that
    no optimiser or regulariser of Avalanche finds it. Between two tasks it may be that nothing
    trains, which no optimiser takes: so there is one number, `idle`, without any effect.

    Args:
        prompted: from `method.build(backbone)`; or a trained one.
        inputs: "raw": images as uint8 or as float in [0, 1] (what `ToTensor` gives), texts as
            bytes (`as_benchmark`), which the backbone's own processor prepares; "pixels": pixel
            values that a transform of the data set has made ready for the backbone.

    Attributes:
        width: C; grows with the classes.
        step: batch and answer of the last pass in training, for the plugin.
        running: whether a task has begun and not ended.
        draws: the random numbers of the task, apart from the strategy's.

    Raises:
        ConfigError: a model that answers in words of their own for each text; unknown inputs.
    """

    def __init__(self, prompted: PromptedModel, inputs: Literal["raw", "pixels"] = "raw") -> None:
        super().__init__()
        if inputs not in ("raw", "pixels"):
            raise ConfigError(
                expected='inputs "raw" or "pixels"', got=repr(inputs), remedy="Choose one of them."
            )
        if prompted.method is not None and getattr(prompted.method, "answers", "") == "completions":
            raise ConfigError(
                expected="a method that answers with classes",
                got='answers="completions"',
                remedy="Train completions with cpool.Learner or TRL's SFTTrainer.",
            )
        self.prompted, self.inputs = prompted, inputs
        self.idle = nn.Parameter(torch.zeros(()))
        self.width = max(prompted.classes, default=0) + 1
        self.step = Step()
        self.running = False
        self.draws = Draws()

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over `idle` and what trains now."""
        start = f"{prefix}." if prefix else ""
        yield f"{start}idle", self.idle
        if recurse:
            inner = f"{start}prompted"
            yield from self.prompted.named_parameters(inner, recurse, remove_duplicate)

    def batch(self, x: Tensor, y: Int[Tensor, " B"] | None = None) -> dict[str, Tensor]:
        """Return what the prompted model reads.

        Args:
            x: inputs of a data set of Avalanche, B of them.
            y: their classes.
        """
        device = self.prompted.backbone.device
        if self.inputs == "pixels":
            if not isinstance(x, Tensor) or x.ndim != 4 or not x.dtype.is_floating_point:
                raise DataError(
                    expected="pixel values [B C H W] in floating point",
                    got=f"{getattr(x, 'dtype', type(x).__name__)} {getattr(x, 'shape', '')}",
                    remedy='Use inputs="raw" and let the backbone prepare the images.',
                )
            made = {"pixel_values": x}
        else:
            raw = raw_inputs(x, texts=self.prompted.backbone.kind != "vision")
            made = self.prompted.prepare(raw)
        if y is not None:
            made["labels"] = y
        return {key: value.to(device) for key, value in made.items()}

    def forward(self, x: Tensor) -> Float[Tensor, "B C"]:
        """Answer inputs as a data set of Avalanche holds them."""
        return self._answer(x, None)

    def _answer(self, x: Tensor, told: int | None) -> Float[Tensor, "B C"]:
        prompted = self.prompted
        if not prompted.tasks:  # as an evaluation before the first task wants it: chance
            if self.training and torch.is_grad_enabled():
                raise StateError(
                    expected="a task that has begun, to train",
                    got="a model without any",
                    remedy="Put PromptPoolPlugin() first among the strategy's plugins.",
                )
            return torch.zeros(len(x), self.width, device=prompted.backbone.device)
        batch = self.batch(x)
        output = self._output(batch, told)
        columns = torch.tensor(prompted.classes, device=output.logits.device)
        self.width = max(self.width, int(columns.max()) + 1)
        empty = output.logits.new_full((len(output.logits), self.width), -torch.inf)
        if prompted.training:
            # Some plugins square all logits; the criterion leaves these out, and argmax finds them
            # never.
            lowest = output.logits.detach()
            lowest = lowest.masked_fill(lowest.isinf(), torch.inf).amin(dim=1, keepdim=True)
            empty = lowest.expand_as(empty)
        answers = output.logits
        if prompted.training and not self.running:
            # MAS squares all logits after a task: also those of classes that routing left out.
            answers = torch.where(answers.isinf(), empty[:, :1], answers)
        logits = empty.index_copy(1, columns, answers)
        if torch.is_grad_enabled() and not logits.requires_grad:
            # EWC and its like run backwards after a task, when all of it may be frozen.
            logits = logits + 0.0 * self.idle
        self.step = Step()
        if prompted.training and self.running and torch.is_grad_enabled():
            self.step.batch, self.step.output, self.step.logits = batch, output, logits
        return logits

    def _output(self, batch: dict[str, Tensor], told: int | None) -> Output:
        prompted = self.prompted
        if prompted.training and self.running:
            # Noise and dropout of the pass come from the task's numbers, as in `cpool.Learner`.
            with self.draws():
                return prompted.answer(batch, len(prompted.tasks) - 1)
        training = prompted.training
        prompted.eval()  # between two tasks there is nothing to be trained
        try:
            return prompted.answer(batch, told)
        except Exception as error:
            if not self.running or isinstance(error, DataError):
                raise
            raise StateError(
                expected="a method that answers while a task is learned",
                got=f"{prompted.method}, which cannot before the task has ended ({error})",
                remedy="Evaluate between experiences: eval_every=-1 or 0.",
            ) from error
        finally:
            prompted.train(training)

    def extra_loss(self, y: Int[Tensor, " B"], loss: Float[Tensor, ""]) -> Float[Tensor, ""] | None:
        """Return what the method adds to the loss of the last pass in training; None for nothing.

        The policies' losses of the selection, and the terms of all rules.

        Args:
            y: the classes of its samples.
            loss: their cross-entropy, which some rules look at.
        """
        batch, output = self.step.batch, self.step.output
        if batch is None or output is None:
            return None
        task = len(self.prompted.tasks) - 1
        terms = [selection.loss for selection in output.selections.values()]
        whole = {**batch, "labels": y}
        output = replace(output, loss=loss, losses={"cross_entropy": loss})
        for rule in self.prompted.each_rule():
            terms += rule.loss(self.prompted, whole, output, task).values()
        return torch.stack([term.float() for term in terms]).sum() if terms else None


class ToldAvalancheModel(AvalancheModel, MultiTaskModule):  # type: ignore[misc]  # untyped base
    """The same for benchmarks with task labels: at test each sample's task is told.

    Then only its classes compete, under its own prompts.

    Attributes:
        numbers: task label → number of the task that learned it.
    """

    def __init__(self, prompted: PromptedModel, inputs: Literal["raw", "pixels"] = "raw") -> None:
        MultiTaskModule.__init__(self)
        AvalancheModel.__init__(self, prompted, inputs)
        self.numbers: dict[int, int] = {}

    def adaptation(self, experience: Any) -> None:
        """Do nothing: the plugin begins the tasks."""

    def tell(self, labels: Iterable[int], number: int) -> None:
        """Note the labels of a task.

        Raises:
            ConfigError: a label that another task has.
        """
        labels = list(labels)
        self.check_labels(labels, number)
        self.numbers.update({int(label): number for label in labels})

    def check_labels(self, labels: Iterable[int], number: int) -> None:
        """Refuse labels that another task has, before anything of the task is begun.

        Raises:
            ConfigError: a label that another task has.
        """
        for label in labels:
            if self.numbers.get(int(label), number) != number:
                raise ConfigError(
                    expected="a task label of its own for every task",
                    got=f"label {label} for task {number} and for task {self.numbers[int(label)]}",
                    remedy="Use AvalancheModel, which infers the task.",
                )

    def forward(self, x: Tensor, task_labels: Tensor | int | None = None) -> Float[Tensor, "B C"]:
        """Answer inputs whose task labels are given, [B] or one for all.

        Raises:
            StateError: no labels, or one that no task had in training.
        """
        if task_labels is None:
            raise StateError(
                expected="task labels, which this model is told",
                got="None",
                remedy="Make the benchmark with task labels (with_task_labels), or use "
                "AvalancheModel; LwF with task labels wants a model of Avalanche's own kind.",
            )
        labels = torch.as_tensor(task_labels).flatten().cpu().expand(len(x)).tolist()
        if (self.prompted.training and self.running) or not self.prompted.tasks:
            return self._answer(x, None)
        unknown = sorted({*labels} - self.numbers.keys())
        if unknown:
            raise StateError(
                expected=f"task labels that were trained, {sorted(self.numbers)}",
                got=f"{unknown}",
                remedy="Evaluate learned tasks, or use AvalancheModel, which infers the task.",
            )
        rows: list[Tensor | None] = [None] * len(x)
        for label in sorted({*labels}):
            places = [i for i, one in enumerate(labels) if one == label]
            answers = self._answer(x[torch.tensor(places, device=x.device)], self.numbers[label])
            for place, answer in zip(places, answers, strict=True):
                rows[place] = answer
        return torch.stack([row for row in rows if row is not None])
