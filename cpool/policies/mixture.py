"""Mixture: a weighted sum of slots, by the softmax of their cosines or by the cosines."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from cpool.blocks import Plan
from cpool.errors import ConfigError
from cpool.policies.base import Policy
from cpool.policies.keys import KeyBlocks
from cpool.policies.ranking import largest
from cpool.policies.start import start_keys
from cpool.selection import Selection

__all__ = ["Mixture"]


class Mixture(Policy):
    """Weight slots by `softmax_i(γ(q, k_i) / τ)`, or by `γ(q, k_i)`: `p = Σ w_i P_i`.

    The bare cosine is the matching of MoCL (Wang et al., 2024). In training the slots of the task
    and of all earlier tasks take part; the earlier ones are frozen, so only the task's own keys and
    prompts learn. Gradients flow through the weights to the keys.

    Args:
        query_size: Q.
        temperature: τ of the softmax; small is near to choosing one.
        normalise: "softmax", or "none" for the cosines themselves.
        top: sum over the K slots of largest cosine only; None for all.
        pull: weight of `mean_b (1 − γ(q_b, k))` over the task's own keys (MoCL's matching loss).
        low, high: keys start from U(low, high).
        start: "queries" moves the keys of a task to the centres of its queries, as in `TopK`.
        threshold: at test, queries whose largest cosine is below it fit no slot.
        seed: of k-means.

    >>> policy = Mixture(8)
    >>> policy.grow(1, task=0); policy.grow(1, task=1)
    >>> policy(torch.randn(4, 8)).weight.shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        query_size: int,
        *,
        temperature: float = 0.1,
        normalise: Literal["softmax", "none"] = "softmax",
        top: int | None = None,
        pull: float = 0.0,
        low: float = -1.0,
        high: float = 1.0,
        start: Literal["random", "queries"] = "random",
        threshold: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (
            temperature <= 0
            or normalise not in ("softmax", "none")
            or (top is not None and top < 1)
        ):
            raise ConfigError(
                expected='a temperature above 0, normalise "softmax" or "none", top of at least 1',
                got=f"temperature={temperature}, normalise={normalise!r}, top={top}",
                remedy="Use top=None to mix all slots.",
            )
        self.temperature, self.normalise, self.top = temperature, normalise, top
        self.pull, self.threshold, self.seed = pull, threshold, seed
        self.needs_start = start == "queries"
        self.keys = KeyBlocks(query_size, low, high)

    def grow(self, n: int, task: int | None = None) -> None:
        """Add `n` keys."""
        super().grow(n, task)
        self.keys.grow(n, self.owner.device)

    def start_task(self, query: Float[Tensor, "n Q"], task: int) -> None:
        """Move the keys of `task` to centres of its training queries, if asked to."""
        if self.needs_start:
            start_keys(self.keys, self.owner, query, task, self.seed)

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Weight the available slots for each sample; those of tasks up to `task` if it is told."""
        assert query is not None
        allowed = self.reached(available, task)
        slots = allowed.nonzero()[:, 0]
        keys = F.normalize(self.keys.read(slots).float(), dim=1)
        cosine = F.normalize(query.float(), dim=1) @ keys.T
        index, similarity = slots.expand(len(query), -1), cosine
        if self.top is not None and self.top < len(slots):
            best = largest(cosine.detach(), self.top)
            index, similarity = slots[best], cosine.gather(1, best)
        weight = similarity
        if self.normalise == "softmax":
            weight = (similarity / self.temperature).softmax(dim=1)
        loss = cosine.new_zeros(())
        own = self.own(task)[slots]
        if self.pull and self.training and task is not None and bool(own.any()):
            loss = self.pull * (1 - cosine[:, own]).mean()
        fits = None
        if self.threshold is not None and not (self.training and task is not None):
            fits = self.nearness(query, allowed) >= self.threshold
        return Selection(index, weight, loss, similarity.detach(), fits)

    @torch.no_grad()
    def nearness(
        self, query: Float[Tensor, "B Q"], available: Bool[Tensor, " M"] | None = None
    ) -> Float[Tensor, " B"]:
        """Return the largest cosine of each query."""
        slots = self.candidates(available).nonzero()[:, 0]
        keys = F.normalize(self.keys.read(slots).float(), dim=1)
        best = largest(F.normalize(query.float(), dim=1) @ keys.T, 1)
        return self.keys.cosine(query, slots[best])[:, 0]

    def vectors(self) -> Float[Tensor, "M Q"]:
        """Return the keys, normalised."""
        return F.normalize(self.keys().detach().float(), dim=1)

    def recombine(self, plan: Plan) -> None:
        """Make the keys anew by a plan."""
        super().recombine(plan)
        self.keys.recombine(plan)

    def layout(self) -> dict[str, Any]:
        """Return the sizes of the key blocks."""
        return {**super().layout(), "blocks": self.keys.sizes(), "frozen": self.keys.frozen()}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make key blocks of the sizes in `layout`."""
        super().restore(layout)
        self.keys.restore(layout["blocks"], layout["frozen"], self.owner.device)
