"""Anchor: what all tasks share and train is held near to where the last task left it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.rule import Rule

__all__ = ["Anchor"]


class Anchor(Rule):
    """Loss from the second task on: `λ · Σ_i |θ_i − θ_i'|`, θ' the values when the task began.

    Roy et al., *ConvPrompt*, CVPR 2024. The values are taken anew when a task begins,
    so a checkpoint between tasks need not hold them.

    Args:
        shared: from the model to the parameters that are held.
        weight: λ.
    """

    def __init__(self, shared: Callable[[Any], Iterable[Tensor]], *, weight: float = 0.01) -> None:
        super().__init__()
        self.shared, self.weight = shared, weight
        self._before: list[Tensor] = []

    def begin(self, model: Any, task: int) -> None:
        """Take the values, if there was a task before."""
        self._before = [p.detach().clone() for p in self.shared(model)] if task else []

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], output: Any, task: int | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the term "anchor"."""
        if not self._before:
            return {}
        pairs = zip(self.shared(model), self._before, strict=True)
        moved = [(now - before.to(now)).abs().sum() for now, before in pairs]
        return {"anchor": self.weight * torch.stack(moved).sum()}
