"""Rehearsal: each step learns from a batch of the memory too."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.rule import Rule
from cpool.rules.memory import Memory, inputs_of, opened

__all__ = ["Rehearsal"]


class Rehearsal(Rule):
    """`weight · CE` over all classes seen, on as many remembered samples as the batch has.

    The memory gets each sample of a task once, when the task ends, so that a step never meets a
    sample of the task being learned twice.

    Args:
        size: of the memory, in samples.
        keep: which samples stay, see `Memory`.
        batch: samples drawn a step; as many as the step's own batch by default.
        weight: of the term.
    """

    needs_end: ClassVar[bool] = True
    needs_inputs: ClassVar[bool] = True

    def __init__(
        self,
        size: int,
        *,
        keep: Literal["reservoir", "class"] = "reservoir",
        batch: int | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.memory, self.batch, self.weight = Memory(size, keep), batch, weight

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], output: Any, task: int | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the loss on a batch of the memory, once there is one."""
        if not len(self.memory):
            return {}
        drawn = opened(self.memory.draw(self.batch or len(batch["labels"])))
        answer = model.answer(drawn, task, mask="seen")
        return {"replay": self.weight * answer.losses["cross_entropy"]}

    @torch.no_grad()
    def end(
        self,
        model: Any,
        batches: Iterable[Mapping[str, Tensor]],
        features: Float[Tensor, "n F"] | None,
        labels: Int[Tensor, " n"] | None,
        task: int,
    ) -> None:
        """Offer the task's samples to the memory."""
        for batch in batches:
            self.memory.add(inputs_of(model, batch), batch["labels"])

    def layout(self) -> dict[str, Any]:
        """Return that of the memory."""
        return self.memory.layout()

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the memory."""
        self.memory.restore(layout)
