"""Counted: the slot of smallest distance times usage; its key is pulled, the others are pushed."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from cpool.blocks import Plan, share_counts
from cpool.policies.base import Policy
from cpool.policies.keys import KeyBlocks
from cpool.policies.ranking import largest
from cpool.selection import Selection

__all__ = ["Counted", "key_contrast"]


class Counted(Policy):
    """Choose per sample `s = argmin_m d_m · n_m`, `d_m = 1 − γ(q, k_m)`, `n_m` = uses so far + 1.

    Uses are counted in training, one a sample, so that no few slots take everything; a count
    needs no task boundary. Loss: `key_contrast` of the chosen slots. Moon et al., *MVP*, ICCV
    2023, and its code.

    Args:
        query_size: Q.
        pull: weight of the loss.
        counted_at_test: divide by usage at test too, as the code does, so that a sample gets the
            slot that it would get in training; the counts do not change then. False: the nearest.

    Attributes:
        count: how often each slot was chosen in training.
    """

    def __init__(self, query_size: int, *, pull: float = 1.0, counted_at_test: bool = True) -> None:
        super().__init__()
        self.pull, self.counted_at_test = pull, counted_at_test
        self.keys = KeyBlocks(query_size)
        self.count: Float[Tensor, " M"]
        self.register_buffer("count", torch.zeros(0))

    def grow(self, n: int, task: int | None = None) -> None:
        """Add `n` keys."""
        super().grow(n, task)
        self.keys.grow(n, self.owner.device)
        self.count = torch.cat([self.count, self.count.new_zeros(n)])

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose a slot for each sample, and count it in training."""
        assert query is not None
        training = self.training and task is not None
        allowed = self.candidates(available)
        keys = F.normalize(self.keys().float(), dim=1)
        distance = 1 - F.normalize(query.float(), dim=1) @ keys.T
        mass = self.count + 1
        scaled = distance * mass if training or self.counted_at_test else distance
        index = largest((-scaled).masked_fill(~allowed, -torch.inf), 1)
        loss = distance.new_zeros(())
        if training:
            loss = self.pull * key_contrast(distance, keys, index[:, 0], mass)
            self.count = self.count + torch.bincount(index[:, 0], minlength=len(self))
        similarity = 1 - distance.gather(1, index).detach()
        return Selection(index, None, loss, similarity)

    def nearness(
        self, query: Float[Tensor, "B Q"], available: Bool[Tensor, " M"] | None = None
    ) -> Float[Tensor, " B"]:
        """Return the largest cosine of each query."""
        allowed = self.candidates(available)
        cosine = F.normalize(query.float(), dim=1) @ self.vectors().T
        return cosine.masked_fill(~allowed, -torch.inf).amax(dim=1)

    def vectors(self) -> Float[Tensor, "M Q"]:
        """Return the keys, normalised."""
        return F.normalize(self.keys().detach().float(), dim=1)

    def recombine(self, plan: Plan) -> None:
        """Make keys and counts anew by a plan."""
        super().recombine(plan)
        self.keys.recombine(plan)
        self.count = share_counts(self.count, plan)

    def layout(self) -> dict[str, Any]:
        """Return the sizes of the key blocks."""
        return {**super().layout(), "blocks": self.keys.sizes(), "frozen": self.keys.frozen()}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make key blocks of the sizes in `layout`."""
        super().restore(layout)
        self.keys.restore(layout["blocks"], layout["frozen"], self.owner.device)
        self.count = self.count.new_zeros(len(self))


def key_contrast(
    distance: Float[Tensor, "B M"],
    keys: Float[Tensor, "M Q"],
    chosen: Any,
    mass: Float[Tensor, " M"],
) -> Float[Tensor, ""]:
    """Return `−log (P / (N + P) + 1e-6)`, small when queries are near to their key, keys apart.

    `N = mean_b exp(d_{b,s_b} / n_{s_b})`, `P = mean_b mean_m exp((1 − γ(k_{s_b}, k_m)) / n_{s_b})`.
    The code divides each sample by the usage of all samples' slots (a broadcast of [B 1 M] and
    [B 1]); here by that of its own.

    Args:
        distance: 1 − γ of each query and key.
        keys: of norm 1.
        chosen: the slot of each sample, [B].
        mass: n, the usage of each slot plus 1.
    """
    weight = mass[chosen]
    near = distance.gather(1, chosen.unsqueeze(1))[:, 0].div(weight).exp().mean()
    apart = (1 - keys[chosen] @ keys.T).div(weight.unsqueeze(1)).exp().mean()
    return -(apart / (near + apart) + 1e-6).log()
