"""TopK: the slots whose keys are most similar to the query, per sample."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.blocks import Plan, share_counts
from cpool.errors import ConfigError, PoolError
from cpool.policies.base import Policy
from cpool.policies.keys import KeyBlocks
from cpool.policies.ranking import largest
from cpool.policies.search import FAISS_FROM, IndexKind, KeyIndex, exact, has_faiss
from cpool.policies.start import start_keys
from cpool.selection import Selection

__all__ = ["TopK", "largest"]


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
        start: "queries" moves the keys of a task to the k-means centres of its queries before it
            is trained, which keeps a pool from collapsing; "random" leaves them where they are.
        threshold: at test, queries whose largest cosine is below it fit no slot.
        search: "exact"; "faiss", an approximate index (extra `faiss`); or "auto", FAISS if it is
            installed and the pool has `FAISS_FROM` keys. Training is always exact: keys move.
        index: which index of FAISS, see `KeyIndex`.
        seed: of k-means.
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
        start: Literal["random", "queries"] = "random",
        threshold: float | None = None,
        search: Literal["auto", "exact", "faiss"] = "auto",
        index: IndexKind = "ivf",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if k < 1:
            raise PoolError(
                expected="top-k of at least 1", got=str(k), remedy="Choose how many slots to use."
            )
        if start not in ("random", "queries") or search not in ("auto", "exact", "faiss"):
            raise ConfigError(
                expected='start "random" or "queries", search "auto", "exact" or "faiss"',
                got=f"start={start!r}, search={search!r}",
                remedy="Choose one of them.",
            )
        self.k, self.pull, self.own_task, self.diversify = k, pull, own_task, diversify
        self.threshold, self.search, self.seed = threshold, search, seed
        self.needs_start = start == "queries"
        self.keys, self.index = KeyBlocks(query_size, low, high), KeyIndex(index)
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
        """Choose K slots per sample, most similar first."""
        assert query is not None
        training = self.training and task is not None
        # Outside training a pool with disabled slots may hold fewer than k: then all are used.
        allowed = self.candidates(available, self.k if training else 1)
        if task is not None and self.own_task:
            allowed = self.candidates(allowed & self.own(task), self.k if training else 1)
        if training:
            index = self._diverse(query, allowed)
            self.count += torch.bincount(index.reshape(-1), minlength=len(self)).to(self.count)
        else:
            index = self.nearest(query, min(self.k, int(allowed.sum())), allowed)
        chosen = self.keys.cosine(query, index)
        loss = self.pull * (1 - chosen).sum(dim=1).mean()
        similarity = chosen.detach()
        fits = None
        if self.threshold is not None and not training:
            fits = similarity[:, 0] >= self.threshold
        return Selection(index, None, loss, similarity, fits)

    def nearest(
        self, query: Float[Tensor, "B Q"], k: int, allowed: Bool[Tensor, " M"]
    ) -> Int[Tensor, "B K"]:
        """Return the `k` allowed slots of largest cosine, by the search that fits the pool."""
        wanted = self.search == "faiss" or (
            self.search == "auto" and int(allowed.sum()) >= FAISS_FROM and has_faiss()
        )
        search = self.index.search if wanted and not self.training else exact
        return search(self.keys, query, k, allowed)

    def _diverse(
        self, query: Float[Tensor, "B Q"], allowed: Bool[Tensor, " M"]
    ) -> Int[Tensor, "B K"]:
        if not self.diversify or not bool(self.past.sum() > 0):
            return exact(self.keys, query, self.k, allowed)
        with torch.no_grad():
            keys = F.normalize(self.keys().float(), dim=1)
            score = (F.normalize(query.float(), dim=1) @ keys.T - 1) * self.past / self.past.sum()
            return largest(score.masked_fill(~allowed, -torch.inf), self.k)

    def nearness(
        self, query: Float[Tensor, "B Q"], available: Bool[Tensor, " M"] | None = None
    ) -> Float[Tensor, " B"]:
        """Return the largest cosine of each query."""
        allowed = self.candidates(available)
        return self.keys.cosine(query, self.nearest(query, 1, allowed))[:, 0].detach()

    def vectors(self) -> Float[Tensor, "M Q"]:
        """Return the keys, normalised."""
        return F.normalize(self.keys().detach().float(), dim=1)

    def usage(self) -> Float[Tensor, " M"] | None:
        """Return how often each slot was chosen in training."""
        return self.count

    def recombine(self, plan: Plan) -> None:
        """Make keys and counts anew by a plan."""
        super().recombine(plan)
        self.keys.recombine(plan)
        self.count, self.past = share_counts(self.count, plan), share_counts(self.past, plan)

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
