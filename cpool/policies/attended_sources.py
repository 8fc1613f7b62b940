"""AttendedSources: a task's own slot, plus an attention over it and the slots of earlier tasks."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cpool.errors import ConfigError, PoolError
from cpool.policies.base import Policy
from cpool.policies.gaussian_router import GaussianRouter
from cpool.pool import PromptPool
from cpool.selection import Selection

__all__ = ["AttendedSources"]


class AttendedSources(Policy):
    """Weight slots so that task k gets `P_k + Σ_{j≤k} a_j P_j`, from the second task on.

    `a = softmax_j(h_k(q) · max_i p_j,i / T)`, `h_k = LayerNorm(W₂ SiLU(W₁ q))`, T = e·W: Asai et
    al., *ATTEMPT*, EMNLP 2022, and its code; earlier tasks are the sources. The maximum is taken
    over the tokens of a slot, at each of its W numbers. Each task has a network h_k of its own,
    which is frozen with its slot; the first has no source, no network, and its slot alone. In
    training k is the task, at test the one that a `GaussianRouter` says; it is chosen first.

    Args:
        query_size: Q.
        pool: of the slots, at one site; it stays its branch's.
        width: rows of W₁.
    """

    needs_end: ClassVar[bool] = True

    def __init__(self, query_size: int, pool: PromptPool, *, width: int = 100) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError(
                expected="a width of at least 1",
                got=str(width),
                remedy="It is the inner width of a task's attention.",
            )
        if pool.sites != 1:
            raise PoolError(
                expected="a pool at one site",
                got=f"{pool.sites} sites",
                remedy="Use EmbeddingSite: queries are compared with tokens.",
            )
        self._pool = (pool,)  # hidden: its values belong to the branch
        self.query_size, self.width = query_size, width
        self.router = GaussianRouter(query_size)
        self.networks = nn.ModuleList()  # of slots 1, 2, …

    def grow(self, n: int, task: int | None = None) -> None:
        """Add the one slot of a task, and its network where there are sources.

        Raises:
            PoolError: several slots, a slot of no task, or a second one of a task.
        """
        self.router.grow(n, task)
        if len(self):
            self.networks.append(self._network())
        super().grow(n, task)

    def _network(self) -> nn.Sequential:
        wide = self._pool[0].width
        down = nn.Linear(self.query_size, self.width, bias=False)
        up = nn.Linear(self.width, wide, bias=False)
        made = nn.Sequential(down, nn.SiLU(), up, nn.LayerNorm(wide))
        return made.to(self.owner.device)

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose the slot of the task, or of the nearest one, and weight it and its sources."""
        assert query is not None
        routed = self.router(query, task, available)
        own = routed.index[:, 0]
        slots = self.candidates(available).nonzero()[:, 0]
        weight = self._attention(query, own, slots)
        index = torch.cat([own[:, None], slots.expand(len(query), -1)], dim=1)
        weight = torch.cat([torch.ones_like(weight[:, :1]), weight], dim=1)
        return Selection(index, weight, query.new_zeros(()))

    def _attention(
        self, query: Float[Tensor, "B Q"], own: Int[Tensor, " B"], slots: Int[Tensor, " K"]
    ) -> Float[Tensor, "B K"]:
        """Return a for each sample: 0 for later slots, and for all where there is no source."""
        keys = self._pool[0].read(slots)[:, 0].amax(dim=1).float()  # [K W]
        weight = keys.new_zeros(len(query), len(slots))
        for slot in sorted(set(own.tolist())):
            if slot == 0 or not bool((slots < slot).any()):
                continue
            rows = (own == slot).nonzero()[:, 0]
            network = self.networks[slot - 1]
            asked = network(query[rows].to(next(network.parameters()).dtype)).float()
            score = asked @ keys.T / (math.e * keys.shape[1])
            part = score.masked_fill(slots > slot, -torch.inf).softmax(dim=1)
            weight = weight.index_add(0, rows, part.to(weight.dtype))
        return weight

    def end_task(self, query: Float[Tensor, "n Q"], task: int) -> None:
        """Add the training queries of `task` to the router."""
        self.router.end_task(query, task)

    def nearness(
        self, query: Float[Tensor, "B Q"], available: Bool[Tensor, " M"] | None = None
    ) -> Float[Tensor, " B"]:
        """Return minus the distance to the nearest task's mean."""
        return self.router.nearness(query, available)

    def layout(self) -> dict[str, Any]:
        """Return the number of slots, and whether the newest network trains."""
        trains = [any(p.requires_grad for p in net.parameters()) for net in self.networks]
        return {**super().layout(), "trains": trains}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the slots of `layout`."""
        super().restore(layout)
        self.router.restore(layout)
        self.networks = nn.ModuleList(
            self._network().requires_grad_(trains) for trains in layout["trains"]
        )
