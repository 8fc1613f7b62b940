"""Everything: all slots for every sample; needs no query."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpool.policies.base import Policy
from cpool.selection import Selection

__all__ = ["Everything"]


class Everything(Policy):
    """Give every sample all available slots, in their order, whatever task is told.

    With one slot this is a shared prompt (the general prompt of DualPrompt). `UpToTask` leaves out
    the slots of later tasks, and has the newest in front.

    >>> policy = Everything()
    >>> policy.grow(3)
    >>> policy(None).index
    tensor([[0, 1, 2]])
    """

    needs_query: ClassVar[bool] = False

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose all available slots, index [1 K]."""
        chosen = self.candidates(available).nonzero()[:, 0]
        return Selection(chosen[None], None, torch.zeros((), device=chosen.device))

    def chosen(self, slots: int) -> int:
        """Return all of them."""
        return slots
