"""NearestCentroid: the slot of the task whose k-means centroid is nearest to the query."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from cpool.errors import PoolError
from cpool.policies.base import Policy
from cpool.policies.top_k import largest
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
    ) -> None:
        super().__init__()
        self.query_size, self.n_centroids = query_size, centroids
        self.metric, self.normalize, self.seed = metric, normalize, seed
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
        return Selection(index, None, query.new_zeros(()), -distance.gather(1, index))

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
        from sklearn.cluster import KMeans

        if not len(query):
            raise PoolError(
                expected="training queries of the task", got="none", remedy="Pass its data."
            )
        q = F.normalize(query.float(), dim=1) if self.normalize else query.float()
        rows = q.detach().cpu().numpy().astype("float64")
        k = min(self.n_centroids, len(rows))
        # More centres than distinct points would warn and return empty clusters.
        k = min(k, len(torch.unique(q.detach().cpu(), dim=0)))
        centres = KMeans(k, random_state=self.seed, n_init=10).fit(rows).cluster_centers_
        filled = torch.as_tensor(centres).float()[torch.arange(self.n_centroids) % k]
        mine = self.owner == task
        self.centroids[mine] = filled.to(self.centroids)
        self.fitted |= mine

    def layout(self) -> dict[str, Any]:
        """Return the number of slots."""
        return super().layout()

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the slots of `layout`."""
        super().restore(layout)
        m = len(self)
        self.centroids = self.centroids.new_zeros(m, self.n_centroids, self.query_size)
        self.fitted = self.fitted.new_zeros(m)
