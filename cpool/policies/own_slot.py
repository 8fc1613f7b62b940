"""OwnSlot: the slots of the task itself; needs no query."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpool.policies.base import Policy
from cpool.selection import Selection

__all__ = ["OwnSlot"]


class OwnSlot(Policy):
    """Give every sample the slots of the task that is told, or the newest ones when none is.

    For prompts that are trained once and then used for everything (a first session), and for
    those whose slots are run apart, so that nothing is chosen at test.

    >>> policy = OwnSlot()
    >>> policy.grow(1, task=0); policy.grow(1, task=1)
    >>> policy(None, task=0).index, policy(None).index
    (tensor([[0]]), tensor([[1]]))
    """

    needs_query: ClassVar[bool] = False

    def clear(self) -> None:
        """Become a policy without slots."""
        self.owner, self.bare = self.owner[:0].clone(), ()

    def join(self, other: Policy, tasks: int) -> None:
        """Take over the slots of another policy."""
        self._take_owners(other, tasks)

    def forget(self, task: int) -> None:
        """Drop the slots of a task."""
        self._drop_owner(task)

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose the slots of the newest task up to the one told, index [1 K]."""
        allowed = self.candidates(available)
        last = self.owner.max() if task is None else torch.as_tensor(task)
        reached = allowed & (self.owner <= last.to(self.owner.device))
        owner = self.owner[reached].max() if bool(reached.any()) else self.owner[allowed].min()
        chosen = (allowed & (self.owner == owner)).nonzero()[:, 0]
        return Selection(chosen[None], None, torch.zeros((), device=chosen.device))
