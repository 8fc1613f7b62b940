"""ClassGaussians: a Gaussian of features a class, and training on draws instead of samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from cpool.errors import ConfigError, DataError

__all__ = ["ClassGaussians", "replay"]


class ClassGaussians(nn.Module):
    """One Gaussian a class, `N(μ_c, Σ_c + jitter · I)`, Σ_c with the divisor n − 1.

    Kept is no covariance but a factor, `Σ_c = R_cᵀ R_c / (n − 1)` with at most F rows, and a draw
    is `μ_c + R_cᵀ z / √(n − 1) + √jitter · ε`, z and ε of N(0, I). So nothing is decomposed at the
    draw, fewer samples than F (a singular Σ_c) need no shrinkage, and few samples are kept as few
    rows. Samples of a class that comes again are added exactly.

    Args:
        feature_size: F.
        covariance: "full", or "diagonal", which keeps one row a class.
        jitter: variance added in every direction; both public codes add 1e-4.

    Attributes:
        labels, count, mean: of each class.
        rows: how many rows of `factors` each class has, in the order of `labels`.
        factors: R, those of all classes one below the other.
        task: when each class was seen last.

    >>> gaussians = ClassGaussians(2, jitter=0.0)
    >>> gaussians.fit(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([7, 7]), task=0)
    >>> rows, labels = gaussians.draw(100)
    >>> rows[:, 1].unique(), labels.unique()  # no variance in the second direction
    (tensor([1.]), tensor([7]))
    """

    def __init__(
        self,
        feature_size: int,
        *,
        covariance: Literal["full", "diagonal"] = "full",
        jitter: float = 1e-4,
    ) -> None:
        super().__init__()
        if covariance not in ("full", "diagonal") or jitter < 0:
            raise ConfigError(
                expected='covariance "full" or "diagonal", jitter of at least 0',
                got=f"covariance={covariance!r}, jitter={jitter}",
                remedy="Choose one of the two.",
            )
        self.feature_size, self.covariance, self.jitter = feature_size, covariance, jitter
        double, whole = torch.float64, torch.int64
        self.labels: Int[Tensor, " C"]
        self.count: Float64[Tensor, " C"]
        self.mean: Float64[Tensor, "C F"]
        self.rows: Int[Tensor, " C"]
        self.factors: Float[Tensor, "R F"]
        self.task: Int[Tensor, " C"]
        self.register_buffer("labels", torch.zeros(0, dtype=whole))
        self.register_buffer("count", torch.zeros(0, dtype=double))
        self.register_buffer("mean", torch.zeros(0, feature_size, dtype=double))
        self.register_buffer("rows", torch.zeros(0, dtype=whole))
        self.register_buffer("factors", torch.zeros(0, feature_size))
        self.register_buffer("task", torch.zeros(0, dtype=whole))

    def __len__(self) -> int:
        """Return C, the number of classes."""
        return len(self.labels)

    @torch.no_grad()
    def fit(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"], task: int) -> None:
        """Add the features of a task to the Gaussians of their classes.

        Raises:
            DataError: no features.
        """
        if not len(features):
            raise DataError(expected="features of a task", got="none", remedy="Pass its data.")
        factors = self._parts()
        for label in sorted(set(labels.tolist())):
            rows = features[labels == label].to(self.mean)
            mean, n = rows.mean(dim=0), float(len(rows))
            parts, place = [rows - mean], self._place(label, factors)
            if before := float(self.count[place]):
                gap = (self.mean[place] - mean) * (before * n / (before + n)) ** 0.5
                parts = [factors[place].to(mean), *parts, gap[None]]
            factors[place] = self._short(torch.cat(parts)).to(self.factors)
            self.mean[place] = (self.mean[place] * before + mean * n) / (before + n)
            self.count[place], self.task[place] = before + n, task
        self.factors = torch.cat(factors)
        self.rows = self.rows.new_tensor([len(factor) for factor in factors])

    def _parts(self) -> list[Tensor]:
        return list(torch.split(self.factors, self.rows.tolist()))

    def _place(self, label: int, factors: list[Tensor]) -> int:
        """Return the row of a class, after making one for a new class."""
        known = (self.labels == label).nonzero()[:, 0]
        if len(known):
            return int(known[0])
        factors.append(self.factors[:0])
        for name in ("count", "task", "mean"):
            old = self.get_buffer(name)
            setattr(self, name, torch.cat([old, old.new_zeros(1, *old.shape[1:])]))
        self.labels = torch.cat([self.labels, self.labels.new_tensor([label])])
        return len(self.labels) - 1

    def _short(self, rows: Float64[Tensor, "n F"]) -> Float64[Tensor, "R F"]:
        """Return at most F rows (one if diagonal) with the same `rowsᵀ rows` (or its diagonal)."""
        if self.covariance == "diagonal":
            return rows.square().sum(dim=0, keepdim=True).sqrt()
        if len(rows) <= self.feature_size:
            return rows
        return torch.linalg.qr(rows, mode="r").R  # type: ignore[no-any-return]

    @torch.no_grad()
    def draw(
        self, per_class: int, scale: Float[Tensor, " C"] | None = None
    ) -> tuple[Float[Tensor, "m F"], Int[Tensor, " m"]]:
        """Draw features of all classes, from torch's generator.

        Args:
            per_class: how many of each class; m is that times C.
            scale: factors of the means.

        Returns:
            The features, class by class, and their labels.
        """
        means = self.mean if scale is None else self.mean * scale.to(self.mean).unsqueeze(1)
        drawn = []
        for mean, count, factor in zip(means, self.count.tolist(), self._parts(), strict=True):
            width = self.feature_size if self.covariance == "diagonal" else len(factor)
            noise = torch.randn(per_class, width).to(factor)  # drawn on the CPU on any device
            spread = noise * factor if self.covariance == "diagonal" else noise @ factor
            rows = mean.to(factor) + spread / max(count - 1, 1) ** 0.5
            if self.jitter:
                rows = rows + torch.randn(rows.shape).to(rows) * self.jitter**0.5
            drawn.append(rows)
        return torch.cat(drawn), self.labels.repeat_interleave(per_class)

    def layout(self) -> dict[str, Any]:
        """Return the sizes of the tensors."""
        return {"classes": len(self), "rows": len(self.factors)}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the classes of `layout`."""
        for name in ("labels", "count", "mean", "rows", "task"):
            old = self.get_buffer(name)
            setattr(self, name, old.new_zeros(layout["classes"], *old.shape[1:]))
        self.factors = self.factors.new_zeros(layout["rows"], self.feature_size)


def replay(
    gaussians: ClassGaussians,
    parameters: Sequence[Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    per_class: int,
    epochs: int,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    scale: Float[Tensor, " C"] | None = None,
) -> None:
    """Train on draws of all classes: new ones an epoch, SGD with a cosine schedule over the epochs.

    Args:
        gaussians: what to draw from.
        parameters: what trains.
        loss: from features [B F] and labels [B] to a scalar.
        per_class: draws of each class an epoch, and the size of a batch.
        epochs, lr, momentum, weight_decay: of SGD.
        scale: factors of the means, class by class.
    """
    if not parameters or not epochs:
        return
    optimizer = SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)
    schedule = CosineAnnealingLR(optimizer, epochs)
    with torch.enable_grad():
        for _ in range(epochs):
            rows, labels = gaussians.draw(per_class, scale)
            order = torch.randperm(len(rows)).to(rows.device)
            for batch in torch.split(order, per_class):
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss(rows[batch], labels[batch]))
                optimizer.step()
            schedule.step()
    optimizer.zero_grad(set_to_none=True)
