"""TopK: the slots whose keys are most similar to the query, per sample."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.errors import PoolError
from cpool.policies.base import Policy
from cpool.policies.keys import KeyBlocks
from cpool.selection import Selection

__all__ = ["TopK", "largest"]


def largest(score: Float[Tensor, "B M"], k: int) -> Int[Tensor, "B K"]:
    """Return the `k` largest of each row, largest first; ties go to the lowest slot number.

    `torch.topk` leaves ties unspecified, which would make a prediction depend on the batch.

    >>> largest(torch.tensor([[0.5, 0.9, 0.9]]), 2)
    tensor([[1, 2]])
    """
    return score.sort(dim=1, descending=True, stable=True).indices[:, :k]


class TopK(Policy):
    """Choose per sample the K slots of largest cosine γ(q, k), and pull their keys to the query.

    The loss is `pull · mean_b Σ_{s chosen} (1 − γ(q_b, k_s))` (Wang et al., *Learning to Prompt*,
    CVPR 2022, equation 5). Selection is per sample, never by the batch's majority as in the
    public codes, so a prediction is the same alone and in any batch.

    Args:
        query_size: Q.
        k: how many slots each sample gets.
        pull: weight λ of the key loss.
        own_task: in training, choose only among slots of the current task (and shared ones).
        diversify: in training, penalise slots that earlier tasks used often: choose the smallest
            `(1 − γ) · h`, h the frequency up to the last task (equation 4 of the paper).
        low, high: keys start from U(low, high).
    """

    def __init__(
        self,
        query_size: int,
        k: int = 1,
        *,
        pull: float = 0.5,
        own_task: bool = False,
        diversify: bool = False,
        low: float = -1.0,
        high: float = 1.0,
    ) -> None:
        super().__init__()
        if k < 1:
            raise PoolError(
                expected="top-k of at least 1", got=str(k), remedy="Choose how many slots to use."
            )
        self.k, self.pull, self.own_task, self.diversify = k, pull, own_task, diversify
        self.keys = KeyBlocks(query_size, low, high)
        self.count: Float[Tensor, " M"]
        self.past: Float[Tensor, " M"]
        self.register_buffer("count", torch.zeros(0))
        self.register_buffer("past", torch.zeros(0))

    def grow(self, n: int, task: int | None = None) -> None:
        """Add `n` keys."""
        super().grow(n, task)
        self.keys.grow(n, self.owner.device)
        self.count = torch.cat([self.count, self.count.new_zeros(n)])
        self.past = torch.cat([self.past, self.past.new_zeros(n)])

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose K slots per sample, most similar first."""
        assert query is not None
        training = self.training and task is not None
        # Outside training a pool with disabled slots may hold fewer than k: then all are used.
        allowed = self.candidates(available, self.k if training else 1)
        if task is not None and self.own_task:
            allowed = self.candidates(allowed & self.own(task), self.k if training else 1)
        similarity = F.normalize(query.float(), dim=1) @ F.normalize(self.keys().float(), dim=1).T
        score = self._score(similarity.detach(), training)
        k = self.k if training else min(self.k, int(allowed.sum()))
        index = largest(score.masked_fill(~allowed, -torch.inf), k)
        if training:
            self.count += torch.bincount(index.reshape(-1), minlength=len(self)).to(self.count)
        chosen = similarity.gather(1, index)
        loss = self.pull * (1 - chosen).sum(dim=1).mean()
        return Selection(index, None, loss, chosen.detach())

    def _score(self, similarity: Float[Tensor, "B M"], training: bool) -> Float[Tensor, "B M"]:
        if not (self.diversify and training) or not bool(self.past.sum() > 0):
            return similarity
        return -(1 - similarity) * (self.past / self.past.sum())

    def chosen(self, slots: int) -> int:
        """Return K, or all slots where there are fewer."""
        return min(self.k, slots)

    def freeze_all(self) -> None:
        """Freeze the keys, and take the usage so far as the past."""
        super().freeze_all()
        self.next_task()

    def next_task(self) -> None:
        """Make what was counted until now the frequency that diversified selection uses."""
        self.past = self.count.clone()

    def layout(self) -> dict[str, Any]:
        """Return the sizes of the key blocks."""
        return {**super().layout(), "blocks": self.keys.sizes(), "frozen": self.keys.frozen()}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make key blocks of the sizes in `layout`."""
        super().restore(layout)
        self.keys.restore(layout["blocks"], layout["frozen"], self.owner.device)
        self.count = self.count.new_zeros(len(self))
        self.past = self.past.new_zeros(len(self))
