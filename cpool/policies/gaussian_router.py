"""GaussianRouter: the task whose Gaussian, of one shared covariance, is nearest to the query."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional as F

from cpool.blocks import Plan
from cpool.errors import ConfigError, DataError, PoolError
from cpool.policies.base import Policy
from cpool.policies.ranking import largest
from cpool.selection import Selection

__all__ = ["GaussianRouter"]


class GaussianRouter(Policy):
    """Fit a Gaussian to the training queries of each task; at test take the nearest one's slot.

    `d²_t(q) = (q − μ_t)ᵀ Σ⁻¹ (q − μ_t)`, with the covariance within tasks shared by all and shrunk
    towards a sphere, `Σ = (1 − λ) S / (n − T) + λ tr(S) / (n − T) / Q · I`: linear discriminant
    analysis over tasks. Counts, sums and S, the scatter within tasks, are kept in float64 and add
    up exactly, so the order of tasks and of batches does not matter. In training every sample
    gets the slot of its task.

    Args:
        query_size: Q.
        shrinkage: λ in [0, 1]; 1 is the nearest mean.
        soft: False for one slot; True for the two tasks of highest posterior (equal priors),
            summed by it.
        normalize: divide queries by their L2 norm first.
        threshold: at test, queries whose distance d is above minus this fit no slot.
        forgettable: keep each task's part of S, Q² numbers a task, so that it can be taken out.

    Attributes:
        count: training queries of each slot's task.
        total: their sum.
        scatter: S.
        seen: n and T; both stay when a slot is evicted, as S does.
        kept: the parts of S, by slot; none unless `forgettable`.
    """

    needs_end: ClassVar[bool] = True

    def __init__(
        self,
        query_size: int,
        *,
        shrinkage: float = 0.1,
        soft: bool = False,
        normalize: bool = True,
        threshold: float | None = None,
        forgettable: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= shrinkage <= 1:
            raise ConfigError(
                expected="shrinkage in [0, 1]",
                got=str(shrinkage),
                remedy="0 keeps the covariance as it is, 1 makes it a sphere.",
            )
        self.query_size, self.shrinkage, self.soft = query_size, shrinkage, soft
        self.normalize, self.threshold = normalize, threshold
        self.forgettable = forgettable
        self.count: Float64[Tensor, " M"]
        self.total: Float64[Tensor, "M Q"]
        self.scatter: Float64[Tensor, "Q Q"]
        self.seen: Float64[Tensor, " two"]
        self.kept: Float64[Tensor, "m Q Q"]
        self.register_buffer("count", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("total", torch.zeros(0, query_size, dtype=torch.float64))
        self.register_buffer("scatter", torch.zeros(query_size, query_size, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(2, dtype=torch.float64))
        # Without it there is no buffer, so that what was saved before it came still loads.
        if forgettable:
            empty = torch.zeros(0, query_size, query_size, dtype=torch.float64)
            self.register_buffer("kept", empty)
        self._factor: tuple[tuple[Any, ...], Tensor] | None = None

    def grow(self, n: int, task: int | None = None) -> None:
        """Add the one slot of a task, without a Gaussian yet.

        Raises:
            PoolError: several slots, a slot of no task, or a second one of a task.
        """
        if n != 1 or task is None or bool((self.owner == task).any()):
            raise PoolError(
                expected="one slot for each task",
                got=f"{n} for task {task}",
                remedy="Grow a branch that is routed by task with per_task=1.",
            )
        super().grow(n, task)
        self.count = torch.cat([self.count, self.count.new_zeros(1)])
        self.total = torch.cat([self.total, self.total.new_zeros(1, self.query_size)])
        if self.forgettable:
            self.kept = torch.cat([self.kept, torch.zeros_like(self.scatter)[None]])

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose the task's slot in training; at test the nearest one, or weight the best two."""
        assert query is not None
        allowed = self.candidates(available)
        if task is not None:
            own = self.candidates(allowed & self.own(task)).nonzero()[:, 0]
            return Selection(own.expand(len(query), -1), None, query.new_zeros(()))
        allowed = self.candidates(allowed & (self.count > 0))
        squared = self.distance(query).square()
        score = (-squared).masked_fill(~allowed, -torch.inf)
        index = largest(score, min(2 if self.soft else 1, int(allowed.sum())))
        best = score.gather(1, index)
        weight = (best / 2).softmax(dim=1).to(query.dtype) if self.soft else None
        near = -(-best).sqrt()
        fits = None if self.threshold is None else near[:, 0] >= self.threshold
        return Selection(index, weight, query.new_zeros(()), near.to(query.dtype), fits)

    @torch.no_grad()
    def distance(self, query: Float[Tensor, "B Q"]) -> Float64[Tensor, "B M"]:
        """Return the Mahalanobis distance of each query to the mean of each slot's task."""
        return self._to_means(self._rows(query))

    @torch.no_grad()
    def mean_distance(self, query: Float[Tensor, "n Q"]) -> Float64[Tensor, " M"]:
        """Return the Mahalanobis distance of the mean of all queries to that of each slot's task.

        Raises:
            DataError: no queries.
        """
        self._check_some(query)
        return self._to_means(self._rows(query).mean(dim=0, keepdim=True))[0]

    def _to_means(self, rows: Float64[Tensor, "n Q"]) -> Float64[Tensor, "n M"]:
        factor = self._whitening()
        means = (self.total / self.count.clamp_min(1).unsqueeze(1)) @ factor
        return torch.cdist(rows @ factor, means, compute_mode="donot_use_mm_for_euclid_dist")

    @staticmethod
    def _check_some(query: Float[Tensor, "n Q"]) -> None:
        if not len(query):
            raise DataError(
                expected="training queries of the task", got="none", remedy="Pass them."
            )

    def _rows(self, query: Float[Tensor, "n Q"]) -> Float64[Tensor, "n Q"]:
        rows = query.detach().double()
        return F.normalize(rows, dim=1) if self.normalize else rows

    def _whitening(self) -> Float64[Tensor, "Q Q"]:
        """Return L⁻ᵀ of Σ = L Lᵀ, kept until the statistics change."""
        stamp = self.scatter._version, id(self.scatter), self.scatter.data_ptr()
        if self._factor is None or self._factor[0] != stamp:
            free = (self.seen[0] - self.seen[1]).clamp_min(1)
            covariance = self.scatter / free
            sphere = covariance.diagonal().mean().clamp_min(1e-12)
            eye = torch.eye(self.query_size, dtype=torch.float64, device=covariance.device)
            # Fewer samples than dimensions: a trace of the sphere keeps Σ invertible at λ = 0.
            shrunk = torch.lerp(covariance, sphere * eye, max(self.shrinkage, 1e-6))
            lower = torch.linalg.cholesky(shrunk)
            whitening = torch.linalg.solve_triangular(lower, eye, upper=False).T.contiguous()
            self._factor = stamp, whitening
        return self._factor[1]

    @torch.no_grad()
    def end_task(self, query: Float[Tensor, "n Q"], task: int) -> None:
        """Add the training queries of `task`; a second call for it adds more of them.

        Raises:
            DataError: no queries.
        """
        self._check_some(query)
        slot = int((self.owner == task).nonzero()[0, 0])
        rows = self._rows(query)
        mean, n, before = rows.mean(dim=0), len(rows), self.count[slot].clone()
        part = (rows - mean).T @ (rows - mean)
        if before:
            gap = self.total[slot] / before - mean
            part = part + torch.outer(gap, gap) * (before * n / (before + n))
        self.scatter += part
        if self.forgettable:
            self.kept[slot] += part
        self.seen += torch.tensor([n, 0 if before else 1], device=self.seen.device)
        self.total[slot] += rows.sum(dim=0)
        self.count[slot] += n

    def _join(self, gap: Float64[Tensor, " Q"], n: Any, m: Any) -> None:
        """Add to the scatter what two groups have more when they become one."""
        self.scatter += torch.outer(gap, gap) * (n * m / (n + m))

    def clear(self) -> None:
        """Become a router without slots."""
        for name in ("owner", "count", "total", *(("kept",) if self.forgettable else ())):
            setattr(self, name, self.get_buffer(name)[:0].clone())
        self.scatter, self.seen = torch.zeros_like(self.scatter), torch.zeros_like(self.seen)
        self._factor = None

    def join(self, other: Policy, tasks: int) -> None:
        """Take over the Gaussians of another router, and add its scatter."""
        assert isinstance(other, GaussianRouter)
        self._take_owners(other, tasks)
        self.count = torch.cat([self.count, other.count])
        self.total = torch.cat([self.total, other.total])
        self.scatter, self.seen = self.scatter + other.scatter, self.seen + other.seen
        if self.forgettable:
            self.kept = torch.cat([self.kept, other.kept])
        self._factor = None

    def forget(self, task: int) -> None:
        """Drop the Gaussian of a task, and make the scatter anew of the parts of the others.

        Raises:
            PoolError: the parts were not kept.
        """
        if not self.forgettable:
            raise PoolError(
                expected="a router that keeps each task's part of the covariance",
                got="one that has their sum alone",
                remedy="Build the method with forgettable=True before it learns.",
            )
        places = self._drop_owner(task)
        self.count, self.total = self.count[places], self.total[places]
        self.kept = self.kept[places].clone()
        self.scatter = torch.zeros_like(self.scatter)
        for part in self.kept:  # in the order in which they would have been added
            self.scatter += part
        self.seen = torch.stack([self.count.sum(), (self.count > 0).sum().to(self.count)])
        self._factor = None

    def nearness(
        self, query: Float[Tensor, "B Q"], available: Bool[Tensor, " M"] | None = None
    ) -> Float[Tensor, " B"]:
        """Return minus the distance to the nearest task's mean."""
        allowed = self.candidates(self.candidates(available) & (self.count > 0))
        nearest = self.distance(query).masked_fill(~allowed, torch.inf).amin(dim=1)
        return -nearest.to(query.dtype)

    def vectors(self) -> Float[Tensor, "M Q"]:
        """Return the means, whitened, so that their distances are those of the router."""
        means = self.total / self.count.clamp_min(1).unsqueeze(1)
        return (means @ self._whitening()).float()

    def usage(self) -> Float[Tensor, " M"] | None:
        """Return the number of training queries of each slot's task."""
        return self.count

    def recombine(self, plan: Plan) -> None:
        """Join the Gaussians of slots that become one, as if they had been one task.

        Raises:
            PoolError: the plan makes slots that are no union of old ones.
        """
        rows = [list(parts) for block in plan for parts in block]
        self._check_union(rows)
        if self.forgettable:
            raise PoolError(
                expected="a router without forgettable=True, where slots are evicted",
                got="one that keeps each task's part of the covariance",
                remedy="Give the pool no capacity, or leave forgettable out.",
            )
        for parts in rows:
            first, count = self.total[parts[0]].clone(), self.count[parts[0]].clone()
            for other in parts[1:]:
                if count and self.count[other]:
                    gap = first / count - self.total[other] / self.count[other]
                    self._join(gap, count, self.count[other])
                    self.seen[1] -= 1
                first, count = first + self.total[other], count + self.count[other]
        super().recombine(plan)
        self.total = torch.stack([self.total[parts].sum(dim=0) for parts in rows])
        self.count = torch.stack([self.count[parts].sum() for parts in rows])

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "GaussianRouter":
        self._factor = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the slots of `layout`."""
        super().restore(layout)
        self.count = self.count.new_zeros(len(self))
        self.total = self.total.new_zeros(len(self), self.query_size)
        if self.forgettable:
            self.kept = self.kept.new_zeros(len(self), self.query_size, self.query_size)
