"""Rule: what a method adds to the loss, or does when a task begins or ends."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpool.errors import StateError

__all__ = ["Rule"]


class Rule(nn.Module):
    """Base of all rules: a term of the loss, a memory, or a step at a boundary.

    A model calls its rules in order. They get the model at each call and do not keep it, so that
    its parameters are not theirs. Tensors to be stored are buffers; their sizes go into `layout`.

    Class attributes:
        needs_start: whether `before` reads the task's training data.
        needs_end: whether `end` reads the task's training data.
        needs_features: whether `end` reads their features too, which costs a pass.
        needs_raw: whether `study` reads the task's inputs as people wrote them.
        needs_inputs: whether `loss` runs the model on inputs, also where its features are fixed.
        needs_logits: whether `loss` reads the logits of classes that do not compete in the step;
            where labels are scored by words they cost tokens, and are −inf unless a rule says so.
    """

    needs_start: ClassVar[bool] = False
    needs_end: ClassVar[bool] = False
    needs_features: ClassVar[bool] = False
    needs_inputs: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    needs_raw: ClassVar[bool] = False

    def before(
        self, model: Any, batches: Iterable[Mapping[str, Tensor]], classes: list[int], task: int
    ) -> None:
        """Look at a task's training data before anything is frozen or grown for it."""

    def begin(self, model: Any, task: int) -> None:
        """Get ready, after the model has frozen what is old and grown what is new."""

    def study(self, model: Any, x: Any, y: npt.NDArray[np.int64], task: int) -> None:
        """Look at the task's training inputs before they became a batch; if `needs_raw`.

        Args:
            model: the prompted model, whose task has begun.
            x: raw inputs, n of them.
            y: their classes.
            task: its number.
        """

    @property
    def judges(self) -> bool:
        """Whether it may want rows of a task to be kept from the optimiser, for `judge`.

        Asked before a task begins; by default whether `held_out` is its own.
        """
        return type(self).held_out is not Rule.held_out

    @property
    def held_out(self) -> float:
        """The share of a task's training data to keep from the optimiser; after `before`."""
        return 0.0

    def judge(
        self,
        model: Any,
        trained: Iterable[Mapping[str, Tensor]],
        held: Iterable[Mapping[str, Tensor]],
        task: int,
    ) -> None:
        """Look at what training did, on rows it used and on rows it did not; if `held_out`."""

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], output: Any, task: int | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return terms of the training loss by name; called once a step, after the forward pass.

        Args:
            model: the prompted model, in training; `model.answer(…)` runs it without its rules.
            batch: with labels.
            output: what the model answered.
            task: the task being learned.
        """
        return {}

    def end(
        self,
        model: Any,
        batches: Iterable[Mapping[str, Tensor]],
        features: Float[Tensor, "n F"] | None,
        labels: Int[Tensor, " n"] | None,
        task: int,
    ) -> None:
        """Finish a task; gradients are on, the model is in eval mode.

        Args:
            model: the prompted model, after closed-form heads and policies were fitted.
            batches: the task's training data, with labels; only if `needs_end`.
            features: of the same samples, as the head gets them; sure to be there only if
                `needs_features`.
            labels: their classes; only if `needs_end`.
            task: its number.
        """

    def clear(self) -> None:
        """Become a rule that has met no task.

        Raises:
            StateError: a rule by which tasks depend on each other.
        """
        raise self.binding()

    def join(self, model: Any, other: "Rule", tasks: int) -> None:
        """Take over what another rule keeps, as of tasks that come after one's own.

        Args:
            model: the model that this rule belongs to, whose other parts have taken over theirs.
            other: of the same kind and settings.
            tasks: how many tasks come before those of `other`.

        Raises:
            StateError: a rule by which tasks depend on each other.
        """
        raise self.binding()

    def forget(self, model: Any, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Become the rule that never met a task.

        Args:
            model: the model that this rule belongs to, whose other parts have forgotten theirs.
            task: its number.
            tasks: the classes of all tasks, that one among them.

        Raises:
            StateError: a rule by which tasks depend on each other, or that kept too little.
        """
        raise self.binding()

    def binding(self) -> StateError:
        """Build the error for a rule by which tasks depend on each other."""
        return StateError(
            expected="rules by which no task depends on another",
            got=f"{type(self).__name__}, which carries something from task to task",
            remedy="Learn the tasks in sequence instead, with those that shall be known.",
        )

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this rule again (JSON)."""
        return {}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the tensors of a `layout`, ready for `load_state_dict`."""
