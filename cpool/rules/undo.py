"""HeadBackup: what is done to the head at the end of a task is undone before the next."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.rule import Rule

__all__ = ["HeadBackup"]


class HeadBackup(Rule):
    """Keep the head as it was trained; put it back when the next task begins.

    It stands before the rules whose work on the head shall not last, such as an alignment that
    starts anew each time from the trained rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[list[int]] = []

    @torch.no_grad()
    def begin(self, model: Any, task: int) -> None:
        """Put the trained rows back; those of new classes are left alone."""
        now = dict(model.head.named_parameters())
        for name, kept in zip(self._names(model), list(self.buffers()), strict=False):
            now[name].copy_(kept)

    @staticmethod
    def _names(model: Any) -> list[str]:
        """Return the head's parameters in an order in which new ones come last."""
        names = [name for name, _ in model.head.named_parameters()]
        return sorted(names, key=lambda name: (int(name.rsplit(".", 1)[1]), name))

    @torch.no_grad()
    def end(
        self,
        model: Any,
        batches: Iterable[Mapping[str, Tensor]],
        features: Float[Tensor, "n F"] | None,
        labels: Int[Tensor, " n"] | None,
        task: int,
    ) -> None:
        """Keep the head as it is now."""
        now = dict(model.head.named_parameters())
        self._keep([now[name].detach().clone() for name in self._names(model)])

    def _keep(self, tensors: Iterable[Tensor]) -> None:
        tensors = list(tensors)
        self.shapes = [list(tensor.shape) for tensor in tensors]
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"kept{number}", tensor)

    def layout(self) -> dict[str, Any]:
        """Return the shapes of the head's parameters."""
        return {"shapes": self.shapes}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for them."""
        self._keep(torch.zeros(shape) for shape in layout["shapes"])
