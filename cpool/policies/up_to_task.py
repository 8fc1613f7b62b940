"""UpToTask: the slots of the told task and of all tasks before it; needs no query."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpool.policies.base import Policy
from cpool.selection import Selection

__all__ = ["UpToTask"]


class UpToTask(Policy):
    """Give every sample the slots of tasks 0 … t, the newest in front; all when t is not told.

    Progressive Prompts (Razdaibiedina et al., ICLR 2023): task t is answered with the prompts
    that were there when it was learned. `Everything` uses all slots whatever it is told.

    >>> policy = UpToTask()
    >>> policy.grow(1, task=0); policy.grow(1, task=1); policy.grow(1, task=2)
    >>> policy(None, task=1).index, policy(None).index
    (tensor([[1, 0]]), tensor([[2, 1, 0]]))
    """

    needs_query: ClassVar[bool] = False

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose the available slots up to the told task, index [1 K]."""
        allowed = self.reached(available, task)
        chosen = allowed.nonzero()[:, 0].flip(0)
        return Selection(chosen[None], None, torch.zeros((), device=chosen.device))

    def chosen(self, slots: int) -> int:
        """Return all of them."""
        return slots
