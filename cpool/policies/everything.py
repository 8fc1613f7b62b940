"""Everything: all slots for every sample; needs no query."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpool.policies.base import Policy
from cpool.selection import Selection

__all__ = ["Everything"]


class Everything(Policy):
    """Give every sample all available slots, in order or newest first.

    With one slot this is a shared prompt (the general prompt of DualPrompt); with a block a task,
    newest first, it is Progressive Prompts (Razdaibiedina et al., ICLR 2023).

    >>> policy = Everything(newest_first=True)
    >>> policy.grow(3)
    >>> policy(None).index
    tensor([[2, 1, 0]])
    """

    needs_query: ClassVar[bool] = False

    def __init__(self, *, newest_first: bool = False) -> None:
        super().__init__()
        self.newest_first = newest_first

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose all available slots, index [1 K]."""
        chosen = self.candidates(available).nonzero()[:, 0]
        if self.newest_first:
            chosen = chosen.flip(0)
        return Selection(chosen[None], None, torch.zeros((), device=chosen.device))

    def chosen(self, slots: int) -> int:
        """Return all of them."""
        return slots
