"""NearestCentroid: the slot of the task whose k-means centroid is nearest to the query."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from cpool.blocks import Plan
from cpool.errors import PoolError
from cpool.policies.base import Policy
from cpool.policies.ranking import largest
from cpool.selection import Selection

__all__ = ["NearestCentroid"]


class NearestCentroid(Policy):
    """Fit centroids of a task's training queries at its end; at test take the nearest one's slot.

    Wang et al., *S-Prompts*, NeurIPS 2022, section 3.3: k-means of the prompt-free features of
    each domain. The public code measures the distance with L1, where the paper's "nearest"
    suggests L2, and it matters; both are here, L1 is the default. In training every sample gets
    the slot of its task.

    Args:
        query_size: Q.
        centroids: k-means centres a task.
        metric: "l1" or "l2".
        normalize: divide queries by their L2 norm first.
        seed: of k-means.
        threshold: at test, queries whose distance is above minus this fit no slot.
    """

    needs_end: ClassVar[bool] = True

    def __init__(
        self,
        query_size: int,
        centroids: int = 5,
        *,
        metric: Literal["l1", "l2"] = "l1",
        normalize: bool = True,
        seed: int = 0,
        threshold: float | None = None,
    ) -> None:
        super().__init__()
        self.query_size, self.n_centroids = query_size, centroids
        self.metric, self.normalize, self.seed = metric, normalize, seed
        self.threshold = threshold
        self.centroids: Float[Tensor, "M c Q"]
        self.fitted: Bool[Tensor, " M"]
        self.register_buffer("centroids", torch.zeros(0, centroids, query_size))
        self.register_buffer("fitted", torch.zeros(0, dtype=torch.bool))

    def grow(self, n: int, task: int | None = None) -> None:
        """Add `n` slots that have no centroids yet."""
        super().grow(n, task)
        new = self.centroids.new_zeros(n, self.n_centroids, self.query_size)
        self.centroids = torch.cat([self.centroids, new])
        self.fitted = torch.cat([self.fitted, self.fitted.new_zeros(n)])

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose the task's slot in training, the nearest centroid's at test."""
        assert query is not None
        allowed = self.candidates(available)
        if task is not None:
            own = self.candidates(allowed & self.own(task)).nonzero()[:, 0]
            index = own.expand(len(query), -1)
            return Selection(index, None, query.new_zeros(()))
        allowed = self.candidates(allowed & self.fitted)
        distance = self.distance(query)
        index = largest((-distance).masked_fill(~allowed, -torch.inf), 1)
        near = -distance.gather(1, index)
        fits = None if self.threshold is None else near[:, 0] >= self.threshold
        return Selection(index, None, query.new_zeros(()), near, fits)

    def nearness(
        self, query: Float[Tensor, "B Q"], available: Bool[Tensor, " M"] | None = None
    ) -> Float[Tensor, " B"]:
        """Return minus the distance to the nearest centroid."""
        allowed = self.candidates(self.candidates(available) & self.fitted)
        return -self.distance(query).masked_fill(~allowed, torch.inf).amin(dim=1)

    def distance(self, query: Float[Tensor, "B Q"]) -> Float[Tensor, "B M"]:
        """Return the distance of each query to the nearest centroid of each slot."""
        q = F.normalize(query.float(), dim=1) if self.normalize else query.float()
        flat = self.centroids.flatten(0, 1)
        distance = torch.cdist(
            q,
            flat,
            p=1.0 if self.metric == "l1" else 2.0,
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        return distance.view(len(q), len(self), self.n_centroids).amin(dim=2)

    def end_task(self, query: Float[Tensor, "n Q"], task: int) -> None:
        """Fit k-means on the training queries of `task` for its slots.

        With fewer queries than centroids, each query is a centroid, and the first is repeated.
        """
        if not len(query):
            raise PoolError(
                expected="training queries of the task", got="none", remedy="Pass its data."
            )
        q = F.normalize(query.float(), dim=1) if self.normalize else query.float()
        filled = self._centres(q.detach().cpu())
        mine = self.owner == task
        self.centroids[mine] = filled.to(self.centroids)
        self.fitted |= mine

    def _centres(self, rows: Float[Tensor, "n Q"]) -> Float[Tensor, "c Q"]:
        from sklearn.cluster import KMeans

        # More centres than distinct points would warn and return empty clusters.
        k = min(self.n_centroids, len(torch.unique(rows, dim=0)))
        fitted = KMeans(k, random_state=self.seed, n_init=10).fit(rows.double().numpy())
        centres = torch.as_tensor(fitted.cluster_centers_).float()
        return centres[torch.arange(self.n_centroids) % k]

    def clear(self) -> None:
        """Become a policy without slots."""
        for name in ("owner", "centroids", "fitted"):
            setattr(self, name, self.get_buffer(name)[:0].clone())

    def join(self, other: Policy, tasks: int) -> None:
        """Take over the slots and centroids of another policy."""
        assert isinstance(other, NearestCentroid)
        self._take_owners(other, tasks)
        self.centroids = torch.cat([self.centroids, other.centroids])
        self.fitted = torch.cat([self.fitted, other.fitted])

    def forget(self, task: int) -> None:
        """Drop the slots and centroids of a task."""
        places = self._drop_owner(task)
        self.centroids, self.fitted = self.centroids[places], self.fitted[places]

    def vectors(self) -> Float[Tensor, "M Q"]:
        """Return the mean of each slot's centroids."""
        return self.centroids.mean(dim=1)

    def recombine(self, plan: Plan) -> None:
        """Give slots that become one the centres of all their centroids.

        Raises:
            PoolError: the plan makes slots that are no union of old ones.
        """
        rows = [list(parts) for block in plan for parts in block]
        self._check_union(rows)
        made = []
        for parts in rows:
            known = [slot for slot in parts if self.fitted[slot]] or parts[:1]
            joined = self.centroids[known].flatten(0, 1)
            one = len(known) == 1
            made.append(joined if one else self._centres(joined.cpu()).to(joined))
        super().recombine(plan)
        self.centroids = torch.stack(made)
        self.fitted = torch.stack([self.fitted[parts].any() for parts in rows])

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the slots of `layout`."""
        super().restore(layout)
        m = len(self)
        self.centroids = self.centroids.new_zeros(m, self.n_centroids, self.query_size)
        self.fitted = self.fitted.new_zeros(m)
