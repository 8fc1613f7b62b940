"""Projected: every slot, weighted by the cosine of its key and a projection of the query."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from cpool.blocks import Plan
from cpool.policies.base import Policy
from cpool.policies.keys import KeyBlocks
from cpool.selection import Selection

__all__ = ["Projected"]


class Projected(Policy):
    """Weight slot m by `γ(g(q), k_m)`, `g(q) = W₂ relu(W₁ q + b₁) + b₂`; no softmax, no key loss.

    Roy et al., *ConvPrompt*, CVPR 2024. Keys freeze with their slots; the projection
    trains with every task. New keys start orthogonal to all older ones, as in the code, while the
    width of a key allows it.

    Args:
        query_size: Q; W₁ has Q // 2 rows and a key is Q // 4 wide.
        source: a policy whose keys and projection are used, which grows the same number of slots
            before this one does; None for its own.
    """

    def __init__(self, query_size: int, *, source: "Projected | None" = None) -> None:
        super().__init__()
        self._source = () if source is None else (source,)  # hidden: they belong to that one
        if source is None:
            width = max(1, query_size // 4)
            hidden = max(1, query_size // 2)
            self.keys = KeyBlocks(width)
            self.projection = nn.Sequential(
                nn.Linear(query_size, hidden), nn.ReLU(), nn.Linear(hidden, width)
            )

    def grow(self, n: int, task: int | None = None) -> None:
        """Add `n` keys of norm 1."""
        super().grow(n, task)
        if not self._source:
            old = self.keys().detach() if len(self.keys) else None
            self.keys.grow(n, self.owner.device)
            self._straighten(old)

    @torch.no_grad()
    def _straighten(self, old: Tensor | None) -> None:
        """Make the newest keys orthogonal to all others, as far as their width allows."""
        newest = self.keys.blocks[-1]
        basis = [] if old is None else list(torch.linalg.qr(old.T).Q.T)
        for row in newest:
            rest = row.clone()
            for direction in basis:
                rest = rest - (rest @ direction) * direction
            if rest.norm() > 1e-3 * row.norm():
                row.copy_(rest / rest.norm())
                basis.append(row.clone())
            else:
                row.copy_(row / row.norm())

    def freeze_all(self) -> None:
        """Freeze the keys; the projection goes on."""
        if not self._source:
            for parameter in self.keys.parameters():
                parameter.requires_grad_(False).grad = None

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Weight all available slots for each sample."""
        assert query is not None
        owner = self._source[0] if self._source else self
        chosen = self.candidates(available).nonzero()[:, 0]
        keys = F.normalize(owner.keys.read(chosen).float(), dim=1)
        weight = F.normalize(owner.projection(query.float()), dim=1) @ keys.T
        index = chosen.expand(len(query), -1)
        return Selection(index, weight, weight.new_zeros(()), weight.detach())

    def vectors(self) -> Float[Tensor, "M Q"]:
        """Return the keys, normalised; they live in the projected space."""
        owner = self._source[0] if self._source else self
        return F.normalize(owner.keys().detach().float(), dim=1)

    def recombine(self, plan: Plan) -> None:
        """Make the keys anew by a plan."""
        super().recombine(plan)
        if not self._source:
            self.keys.recombine(plan)

    def layout(self) -> dict[str, Any]:
        """Return the sizes of the key blocks."""
        if self._source:
            return super().layout()
        return {**super().layout(), "blocks": self.keys.sizes(), "frozen": self.keys.frozen()}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make key blocks of the sizes in `layout`."""
        super().restore(layout)
        if not self._source:
            self.keys.restore(layout["blocks"], layout["frozen"], self.owner.device)
