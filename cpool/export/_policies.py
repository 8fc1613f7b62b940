"""What a policy does at test, when nobody tells a task, as an exporter can follow it.

Each module takes queries [B Q] and returns slots [B K], and where the policy has them nearness
[B K], weights [B K] and fits [B], in the order of `names`. Keys and centroids of slots that may
not be chosen are left out, so that nothing has to be masked.
"""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpool.errors import ConfigError
from cpool.policies import GaussianRouter, NearestCentroid, Policy, TopK
from cpool.policies.search import FAISS_FROM, has_faiss

__all__ = ["Chooser", "chooser_of"]


class Chooser(nn.Module):
    """Base of the selectors of one branch.

    Args:
        slots: numbers of those that may be chosen, in rising order.
        threshold: queries whose largest nearness is below it fit no slot.
    """

    def __init__(self, slots: Int[Tensor, " m"], threshold: float | None = None) -> None:
        super().__init__()
        self.slots: Int[Tensor, " m"]
        self.register_buffer("slots", slots.clone())
        self.threshold = threshold

    @property
    def names(self) -> tuple[str, ...]:
        """What `forward` returns, in order."""
        return ("slots", "nearness", *(() if self.threshold is None else ("fits",)))

    @abstractmethod
    def forward(self, query: Float[Tensor, "B Q"]) -> tuple[Tensor, ...]:
        """Choose slots."""

    def best(self, score: Float[Tensor, "B m"], k: int) -> tuple[Tensor, Tensor]:
        """Return the slots of the `k` largest scores, ties to the lowest number; and the scores."""
        order, scores = [], []
        for _ in range(k):  # one by one: `topk` leaves ties open, and ONNX has no stable sort
            place = score.argmax(dim=1, keepdim=True)
            order.append(place)
            scores.append(score.gather(1, place))
            score = score.scatter(1, place, -torch.inf)
        return self.slots[torch.cat(order, 1)], torch.cat(scores, 1)

    def judged(self, index: Tensor, near: Tensor) -> tuple[Tensor, ...]:
        """Return slots and nearness, and where there is a threshold whether they fit."""
        if self.threshold is None:
            return index, near
        return index, near, near[:, 0] >= self.threshold


class Always(Chooser):
    """The same slots for every query (policies that read none)."""

    def __init__(self, index: Int[Tensor, "1 K"], fits: Bool[Tensor, " 1"] | None) -> None:
        super().__init__(index[0])
        self.fits: Bool[Tensor, " 1"] | None
        self.register_buffer("fits", fits)

    @property
    def names(self) -> tuple[str, ...]:
        """The slots alone: nothing is near."""
        return ("slots",) if self.fits is None else ("slots", "fits")

    def forward(self, query: Float[Tensor, "B Q"]) -> tuple[Tensor, ...]:
        """Repeat the slots."""
        size = query.shape[0]
        # Copies: two programs of one runtime may not share what they return.
        index = self.slots[None].repeat(size, 1)
        return (index,) if self.fits is None else (index, self.fits.repeat(size))


class NearestKeys(Chooser):
    """The k keys of largest cosine (TopK)."""

    def __init__(self, policy: TopK, slots: Int[Tensor, " m"]) -> None:
        super().__init__(slots, policy.threshold)
        self.k = min(policy.k, len(slots))
        self.keys: Float[Tensor, "m Q"]
        keys = policy.keys.read(slots).detach().float()
        self.register_buffer("keys", F.normalize(keys, dim=1))

    def forward(self, query: Float[Tensor, "B Q"]) -> tuple[Tensor, ...]:
        """Compare queries with keys."""
        score = F.normalize(query.float(), dim=1) @ self.keys.T
        return self.judged(*self.best(score, self.k))


class NearestCentres(Chooser):
    """The slot of the nearest centroid; nearness is minus the distance (NearestCentroid)."""

    def __init__(self, policy: NearestCentroid, slots: Int[Tensor, " m"]) -> None:
        super().__init__(slots, policy.threshold)
        self.metric, self.normalize = policy.metric, policy.normalize
        self.centroids: Float[Tensor, "m c Q"]
        self.register_buffer("centroids", policy.centroids[slots].clone())

    def forward(self, query: Float[Tensor, "B Q"]) -> tuple[Tensor, ...]:
        """Measure the distances to all centroids."""
        rows = F.normalize(query.float(), dim=1) if self.normalize else query.float()
        gap = rows[:, None, None, :] - self.centroids[None]
        l1 = self.metric == "l1"
        distance = gap.abs().sum(dim=3) if l1 else gap.square().sum(dim=3).sqrt()
        return self.judged(*self.best(-distance.amin(dim=2), 1))


class NearestGaussians(Chooser):
    """The slot, or the weighted best two, of the nearest Gaussian (GaussianRouter)."""

    def __init__(self, policy: GaussianRouter, slots: Int[Tensor, " m"]) -> None:
        super().__init__(slots, policy.threshold)
        self.normalize, self.soft = policy.normalize, policy.soft
        self.k = min(2 if policy.soft else 1, len(slots))
        self.factor: Tensor
        self.means: Tensor
        # In float64, as the router: the whitening of a narrow covariance is steep.
        factor = policy._whitening()
        means = policy.total[slots] / policy.count[slots].unsqueeze(1)
        self.register_buffer("factor", factor.clone())
        self.register_buffer("means", means @ factor)

    @property
    def names(self) -> tuple[str, ...]:
        """With weights where two slots are summed."""
        fits = () if self.threshold is None else ("fits",)
        return ("slots", "nearness", *(("weights",) if self.soft else ()), *fits)

    def forward(self, query: Float[Tensor, "B Q"]) -> tuple[Tensor, ...]:
        """Measure the Mahalanobis distances to all means."""
        rows = query.double()
        rows = F.normalize(rows, dim=1) if self.normalize else rows
        squared = ((rows @ self.factor)[:, None] - self.means[None]).square().sum(dim=2)
        index, score = self.best(-squared, self.k)
        index, near, *fits = self.judged(index, -(-score).sqrt())
        weights = ((score / 2).softmax(dim=1).float(),) if self.soft else ()
        return (index, near.float(), *weights, *fits)


def chooser_of(name: str, policy: Policy, available: Bool[Tensor, " M"]) -> Chooser:
    """Return what chooses as a policy does.

    Args:
        name: of the branch.
        policy: of the branch.
        available: the slots that are trained and enabled.

    Raises:
        ConfigError: a policy that cannot be exported.
        PoolError: nothing to choose from.
    """
    if not policy.needs_query:
        selection = policy(None, None, available)
        if selection.weight is not None:
            raise _refused(name, f"{type(policy).__name__}, which weights slots without a query")
        return Always(selection.index, selection.fits)
    slots = _reachable(policy, policy.candidates(available))
    if type(policy) is TopK:
        few = len(slots) < FAISS_FROM
        if policy.search == "faiss" or (policy.search == "auto" and not few and has_faiss()):
            raise _refused(name, "a TopK that searches approximately, by FAISS")
        return NearestKeys(policy, slots)
    if type(policy) is NearestCentroid:
        return NearestCentres(policy, slots)
    if type(policy) is GaussianRouter:
        return NearestGaussians(policy, slots)
    raise _refused(name, type(policy).__name__)


def _reachable(policy: Policy, allowed: Bool[Tensor, " M"]) -> Int[Tensor, " m"]:
    """Return the slots to choose from, which have centroids or a Gaussian where they need them."""
    if isinstance(policy, NearestCentroid):
        allowed = policy.candidates(allowed & policy.fitted)
    if isinstance(policy, GaussianRouter):
        allowed = policy.candidates(allowed & (policy.count > 0))
    return allowed.nonzero()[:, 0]


def _refused(name: str, got: Any) -> ConfigError:
    return ConfigError(
        expected="a policy that can be exported: TopK with exact search, NearestCentroid, "
        "GaussianRouter, or one that reads no query",
        got=f"{got}, in branch {name!r}",
        remedy="Select with the model itself, and export programs for single slots.",
    )
