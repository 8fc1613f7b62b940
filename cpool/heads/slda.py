"""SLDAHead: linear discriminants from running class means and one running covariance."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.errors import ConfigError, StateError
from cpool.heads.base import Head, check_finite, need_classes

__all__ = ["SLDAHead"]

_SHARE = ("kept_counts", "kept_means", "kept_scatter")


class SLDAHead(Head):
    """Logits `w_c · f + b_c`, `w_c = Λ μ_c`, `b_c = −½ μ_c · w_c`, `Λ = [(1 − ε) Σ + ε T]⁻¹`.

    Σ is the covariance within classes, pooled over all of them, with divisor n (Hayes & Kanan,
    *Lifelong Machine Learning with Deep Streaming LDA*, CVPR workshops 2020). Means and scatter
    are kept in float64 and joined exactly (Chan et al., 1983), so neither the order of the samples
    nor the cut into tasks matters.

    Args:
        feature_size: F.
        shrinkage: ε.
        target: T: "identity" (the paper), or "trace", the identity times the mean of Σ's diagonal,
            which does not depend on the scale of the features.
        priors: add `log n_c / n` to the logits.
        forgettable: keep each task's share of means and scatter, F² numbers a task, so that it can
            be taken out again.

    >>> head = SLDAHead(2, shrinkage=0.1)
    >>> head.begin_task([4, 9])
    >>> rows = torch.tensor([[0.0, 0.0], [0.0, 1.0], [5.0, 0.0], [5.0, 1.0]])
    >>> head.fit(rows, torch.tensor([4, 4, 9, 9]))
    >>> [head.classes[column] for column in head(rows).argmax(1)]
    [4, 4, 9, 9]
    """

    fits = True

    def __init__(
        self,
        feature_size: int,
        *,
        shrinkage: float = 1e-4,
        target: Literal["identity", "trace"] = "identity",
        priors: bool = False,
        forgettable: bool = False,
    ) -> None:
        super().__init__(feature_size)
        if not 0 < shrinkage <= 1 or target not in ("identity", "trace"):
            raise ConfigError(
                expected='shrinkage above 0, at most 1, and target "identity" or "trace"',
                got=f"shrinkage={shrinkage}, target={target!r}",
                remedy="Without shrinkage a covariance of few samples has no inverse.",
            )
        self.shrinkage, self.target, self.priors = shrinkage, target, priors
        self.forgettable = forgettable
        self.kept: list[list[int]] = []  # the classes in each task's share
        double = torch.float64
        self.means: Float[Tensor, "C F"]
        self.counts: Int[Tensor, " C"]
        self.scatter: Float[Tensor, "F F"]
        self.weight: Float[Tensor, "C F"]
        self.bias: Float[Tensor, " C"]
        self.register_buffer("means", torch.zeros(0, feature_size, dtype=double))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("scatter", torch.zeros(feature_size, feature_size, dtype=double))
        self.register_buffer("weight", torch.zeros(0, feature_size))
        self.register_buffer("bias", torch.zeros(0))

    def grow(self, n: int) -> None:
        """Add `n` classes without samples."""
        for name in ("means", "counts", "weight", "bias"):
            old = self.get_buffer(name)
            setattr(self, name, torch.cat([old, old.new_zeros(n, *old.shape[1:])]))

    def fit(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]) -> None:
        """Add a task's features to means and scatter, and solve."""
        check_finite(features)
        rows, columns = features.to(self.means), self.columns(labels)
        names = sorted(set(columns.tolist()))
        groups = [rows[columns == column] for column in names]
        means = torch.stack([mine.mean(dim=0) for mine in groups])
        counts = torch.tensor([len(mine) for mine in groups], device=rows.device)
        scatter = torch.zeros_like(self.scatter)
        for mine, mean in zip(groups, means, strict=True):
            scatter += (mine - mean).T @ (mine - mean)
        classes = [self.classes[column] for column in names]
        if self.forgettable:
            self._keep(len(self.kept), classes, counts, means, scatter)
        self._add(classes, counts, means, scatter)
        self._solve()

    def _add(
        self,
        classes: Sequence[int],
        counts: Int[Tensor, " c"],
        means: Float[Tensor, "c F"],
        scatter: Float[Tensor, "F F"],
    ) -> None:
        """Join groups of samples of some classes with those that are known (Chan et al.)."""
        self.scatter += scatter
        for label, n, mean in zip(classes, counts.tolist(), means, strict=True):
            column = self.classes.index(label)
            before, gap = int(self.counts[column]), mean - self.means[column]
            if n:
                self.scatter += before * n / (before + n) * torch.outer(gap, gap)
                self.means[column] += gap * n / (before + n)
                self.counts[column] += n

    def _keep(self, task: int, classes: list[int], *share: Tensor) -> None:
        """Keep the share of a task: counts, means and scatter."""
        self.kept.append(classes)
        for name, tensor in zip(_SHARE, share, strict=True):
            self.register_buffer(f"{name}_{task}", tensor)

    def _share(self, task: int) -> list[Tensor]:
        return [self.get_buffer(f"{name}_{task}") for name in _SHARE]

    def _drop_shares(self) -> None:
        for task in range(len(self.kept)):
            for name in _SHARE:
                delattr(self, f"{name}_{task}")
        self.kept = []

    def clear(self) -> None:
        """Become a head without classes."""
        self.classes, self.groups, self.pieces = [], [], {}
        self._drop_shares()
        for name in ("means", "counts", "weight", "bias"):
            setattr(self, name, self.get_buffer(name)[:0].clone())
        self.scatter = torch.zeros_like(self.scatter)

    def join(self, other: Head) -> None:
        """Join means and scatter with those of another head, as if it were one group."""
        assert isinstance(other, SLDAHead)
        for group in other.groups:
            self.begin_task(group)
        if self.forgettable:
            for task, classes in enumerate(other.kept):
                share = [tensor.clone() for tensor in other._share(task)]
                self._keep(len(self.kept), list(classes), *share)
        self._add(other.classes, other.counts, other.means, other.scatter)
        self._solve()

    def forget(self, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Make means and scatter anew from the shares of the other tasks.

        Raises:
            StateError: shares were not kept.
        """
        if not self.forgettable:
            raise StateError(
                expected="a head that keeps the share of each task",
                got="SLDA whose tasks are in one covariance",
                remedy="Build the method with forgettable=True before it learns.",
            )
        shares = [(names, self._share(t)) for t, names in enumerate(self.kept) if t != task]
        self.clear()
        for number, classes in enumerate(tasks):
            if number != task:
                self.begin_task(classes)
        for classes, share in shares:
            self._keep(len(self.kept), classes, *share)
            self._add(classes, *share)
        if shares:
            self._solve()

    @property
    def covariance(self) -> Float[Tensor, "F F"]:
        """Σ, pooled within classes."""
        return self.scatter / self.counts.sum().clamp_min(1)

    def _solve(self) -> None:
        covariance = self.covariance
        size = float(covariance.diagonal().mean()) if self.target == "trace" else 1.0
        shrunk = (1 - self.shrinkage) * covariance
        # With features that do not vary at all any positive matrix gives the nearest mean.
        shrunk.diagonal().add_(self.shrinkage * (size or 1.0))
        factor = torch.linalg.cholesky(shrunk)
        # In rows, as it is loaded: another layout in memory gives another last digit.
        weight = torch.cholesky_solve(self.means.T, factor).T.contiguous()
        bias = -0.5 * (self.means * weight).sum(dim=1)
        if self.priors:
            bias = bias + (self.counts / self.counts.sum()).log()
        self.weight, self.bias = weight.to(self.weight), bias.to(self.bias)

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the discriminants; −inf for a class without samples."""
        need_classes(self.classes)
        logits = torch.nn.functional.linear(features.float(), self.weight, self.bias)
        return logits.masked_fill(self.counts == 0, -math.inf)

    def layout(self) -> dict[str, Any]:
        """Return the classes, and those of the shares that are kept."""
        return {**super().layout(), **({"kept": self.kept} if self.forgettable else {})}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the statistics of `layout`."""
        self._drop_shares()
        super().restore(layout)
        for task, classes in enumerate(layout.get("kept", ())):
            means = self.means.new_zeros(len(classes), self.feature_size)
            counts = self.counts.new_zeros(len(classes))
            self._keep(task, list(classes), counts, means, torch.zeros_like(self.scatter))
