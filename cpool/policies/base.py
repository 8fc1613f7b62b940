"""Policy: how a query picks slots. Policies own keys and centroids, never prompt values."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cpool.errors import PoolError
from cpool.selection import Selection

__all__ = ["Policy"]


class Policy(nn.Module):
    """Base of all policies: keeps whose slot is whose, and what each policy must say.

    `forward(query, task, available)` is given the task only in training (and where the protocol
    tells it at test), so a policy cannot leak it.
    """

    needs_query: ClassVar[bool] = True
    needs_end: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.owner: Int[Tensor, " M"]
        self.register_buffer("owner", torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        """Return M, the number of slots that the policy knows."""
        return len(self.owner)

    def grow(self, n: int, task: int | None = None) -> None:
        """Take note of `n` new slots; -1 as owner means that all tasks share them."""
        new = self.owner.new_full((n,), -1 if task is None else task)
        self.owner = torch.cat([self.owner, new])

    def freeze_all(self) -> None:
        """Freeze whatever the policy has learned so far."""
        for parameter in self.parameters():
            parameter.requires_grad_(False).grad = None

    @abstractmethod
    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose slots for each query among the available ones."""

    def end_task(self, query: Float[Tensor, "n Q"], task: int) -> None:
        """Learn from all training queries of a finished task (policies that need it)."""

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this policy again (JSON)."""
        return {"slots": len(self)}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the tensors of a `layout`, ready for `load_state_dict`."""
        self.owner = self.owner.new_zeros(layout["slots"])

    def chosen(self, slots: int) -> int:
        """Return how many of `slots` slots are put one after the other for a sample."""
        return min(1, slots)

    def own(self, task: int | None) -> Bool[Tensor, " M"]:
        """Return which slots belong to `task` or to everybody."""
        return (self.owner == (-2 if task is None else task)) | (self.owner == -1)

    def candidates(self, available: Bool[Tensor, " M"] | None, need: int = 1) -> Bool[Tensor, " M"]:
        """Return the slots that may be chosen, after checking that `need` of them exist."""
        if available is None:
            available = torch.ones_like(self.owner, dtype=torch.bool)
        count = int(available.sum())
        if count < need:
            raise PoolError(
                expected=f"at least {need} slots that are enabled and may be chosen",
                got=f"{count} of {len(self)}",
                remedy="Train first, enable slots, grow the pool or choose a smaller top-k.",
            )
        return available
