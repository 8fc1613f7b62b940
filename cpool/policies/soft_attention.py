"""SoftAttention: every slot, weighted by an attended similarity to the query (CODA-Prompt)."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from cpool.blocks import Plan
from cpool.policies.base import Policy
from cpool.policies.keys import KeyBlocks
from cpool.selection import Selection

__all__ = ["SoftAttention", "orthogonality"]


def orthogonality(rows: Float[Tensor, "M W"]) -> Float[Tensor, ""]:
    """Return the mean over all entries of (X Xᵀ − I)², 0 for orthonormal rows.

    The code of CODA-Prompt takes this mean; its paper (equation 8) writes the norm.

    >>> float(orthogonality(torch.eye(3)))
    0.0
    """
    gram = rows @ rows.T
    return (gram - torch.eye(len(rows), device=rows.device, dtype=rows.dtype)).square().mean()


class SoftAttention(Policy):
    """Weight slot m by `α_m = γ(q ⊙ A_m, K_m)`; no softmax, no top-k, no key loss.

    Smith et al., *CODA-Prompt*, CVPR 2023, equations 3–5. Slots of later tasks do not exist yet,
    those of earlier tasks are frozen but take part. The loss is `penalty` times the orthogonality
    of keys and attention vectors; that of the prompt values is the branch's.

    Args:
        query_size: Q.
        penalty: weight of the orthogonality loss (paper 0.1).
        low, high: keys and attention vectors start from U(low, high).
        attended: False for `α_m = γ(q, K_m)`, without attention vectors.
    """

    def __init__(
        self,
        query_size: int,
        *,
        penalty: float = 0.1,
        low: float = 0.0,
        high: float = 1.0,
        attended: bool = True,
    ) -> None:
        super().__init__()
        self.penalty = penalty
        self.keys = KeyBlocks(query_size, low, high)
        self.attention = KeyBlocks(query_size, low, high) if attended else None

    def grow(self, n: int, task: int | None = None) -> None:
        """Add `n` keys and attention vectors."""
        super().grow(n, task)
        for blocks in self.learned():
            blocks.grow(n, self.owner.device)

    def learned(self) -> list[KeyBlocks]:
        """Return the keys and, if there are any, the attention vectors."""
        return [self.keys] if self.attention is None else [self.keys, self.attention]

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Weight all available slots for each sample."""
        assert query is not None
        chosen = self.candidates(available).nonzero()[:, 0]
        learned = [blocks()[chosen].float() for blocks in self.learned()]
        weight = _similarity(query.float(), *learned)
        loss = weight.new_zeros(())
        if self.penalty and self.training and task is not None:
            loss = self.penalty * torch.stack([orthogonality(rows) for rows in learned]).sum()
        index = chosen.expand(len(query), -1)
        return Selection(index, weight, loss, weight.detach())

    def vectors(self) -> Float[Tensor, "M Q"]:
        """Return the keys, normalised."""
        return F.normalize(self.keys().detach().float(), dim=1)

    def recombine(self, plan: Plan) -> None:
        """Make keys and attention vectors anew by a plan."""
        super().recombine(plan)
        for blocks in self.learned():
            blocks.recombine(plan)

    def layout(self) -> dict[str, Any]:
        """Return the sizes of the blocks."""
        return {**super().layout(), "blocks": self.keys.sizes(), "frozen": self.keys.frozen()}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make blocks of the sizes in `layout`."""
        super().restore(layout)
        for blocks in self.learned():
            blocks.restore(layout["blocks"], layout["frozen"], self.owner.device)


def _similarity(
    query: Float[Tensor, "B Q"],
    keys: Float[Tensor, "M Q"],
    attention: Float[Tensor, "M Q"] | None = None,
) -> Float[Tensor, "B M"]:
    """Return `γ(q ⊙ A_m, K_m)`, or `γ(q, K_m)`."""
    if attention is None:
        return F.normalize(query, dim=1) @ F.normalize(keys, dim=1).T
    # γ(q ⊙ A, K) = Σ q A K̂ / ‖q ⊙ A‖, as two matrix products instead of a [B M Q] tensor.
    dot = query @ (attention * F.normalize(keys, dim=1)).T
    norm = (query.square() @ attention.square().T).clamp_min(0).sqrt()
    return dot / norm.clamp_min(1e-12)
