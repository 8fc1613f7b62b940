"""SLDAHead: linear discriminants from running class means and one running covariance."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.errors import ConfigError
from cpool.heads.base import Head, check_finite, need_classes

__all__ = ["SLDAHead"]


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
    ) -> None:
        super().__init__(feature_size)
        if not 0 < shrinkage <= 1 or target not in ("identity", "trace"):
            raise ConfigError(
                expected='shrinkage above 0, at most 1, and target "identity" or "trace"',
                got=f"shrinkage={shrinkage}, target={target!r}",
                remedy="Without shrinkage a covariance of few samples has no inverse.",
            )
        self.shrinkage, self.target, self.priors = shrinkage, target, priors
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
        for column in sorted(set(columns.tolist())):
            mine = rows[columns == column]
            mean, before, n = mine.mean(dim=0), int(self.counts[column]), len(mine)
            rest, gap = mine - mean, mean - self.means[column]
            self.scatter += rest.T @ rest + before * n / (before + n) * torch.outer(gap, gap)
            self.means[column] += gap * n / (before + n)
            self.counts[column] += n
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
