"""VirtualOutliers: the head learns to be less sure of what lies outside of a task's features."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from cpool.errors import ConfigError
from cpool.rule import Rule

__all__ = ["VirtualOutliers", "kth_distance", "outlier_loss", "virtual_outliers"]


def kth_distance(
    points: Float[Tensor, "n F"], among: Float[Tensor, "m F"], k: int
) -> Float[Tensor, " n"]:
    """Return the L2 distance of each point to its k-th nearest row (the farthest if fewer).

    >>> kth_distance(torch.tensor([[0.0]]), torch.tensor([[1.0], [3.0], [7.0]]), 2)
    tensor([3.])
    """
    k = min(k, len(among))
    # Only the order of distances matters, so they may come from one matrix product.
    parts = [torch.cdist(p, among) for p in torch.split(points, 512)]
    return torch.cat([part.kthvalue(k, dim=1).values for part in parts])


def virtual_outliers(
    features: Float[Tensor, "n F"],
    count: int,
    *,
    spread: float = 0.1,
    edge: int = 50,
    tries: int = 600,
    neighbours: int = 50,
) -> Float[Tensor, "m F"]:
    """Return `count` points around the edge of some features, those farthest from all of them.

    Non-parametric outlier synthesis (Tao et al., ICLR 2023): the edge are the features whose
    `neighbours`-th nearest neighbour, by normalised features, is farthest; around each,
    `v = f + spread · ε`, ε ~ N(0, I), is drawn `tries` times; the points whose
    `neighbours`-th nearest feature is farthest are kept.

    Args:
        features: of the training samples of a task.
        count: m, at most edge · tries.
        spread: standard deviation of the noise, in the units of the features.
        edge: features taken as the edge.
        tries: draws a feature of the edge.
        neighbours: which neighbour's distance tells how far out a point is.
    """
    unit = F.normalize(features, dim=1)
    far = kth_distance(unit, unit, neighbours)
    chosen = features[far.topk(min(edge, len(far))).indices]
    noise = torch.randn(tries, features.shape[1]).to(features)
    points = (chosen[:, None] + spread * noise[None]).flatten(0, 1)
    distance = kth_distance(points, features, neighbours)
    return points[distance.topk(min(count, len(points))).indices]


def outlier_loss(
    inside: Float[Tensor, "n C"],
    outside: Float[Tensor, "m C"],
    low: float = -15.0,
    high: float = -3.0,
) -> Float[Tensor, ""]:
    """Return `mean H([E(f) − low]₊) + mean H([high − E(v)]₊)`, H the Huber loss.

    `E = −log Σ_c exp(logit_c)` is the energy: low for features, high for outliers.

    >>> round(float(outlier_loss(torch.tensor([[15.0]]), torch.tensor([[2.0]]))), 4)
    0.0
    """
    energy_in, energy_out = -inside.logsumexp(dim=1), -outside.logsumexp(dim=1)
    terms = [(energy_in - low).clamp_min(0), (high - energy_out).clamp_min(0)]
    return torch.stack([F.huber_loss(t, torch.zeros_like(t)) for t in terms]).sum()


class VirtualOutliers(Rule):
    """At the end of a task, train the head on its features and on virtual outliers.

    `L = CE + λ · outlier_loss`, over the classes of the task; prompts stay as they are, and new
    outliers are drawn every epoch. Huang et al., *OVOR*, ICLR 2024. Its code draws the noise, but
    leaves out the features of the edge that it should surround (commit 4f59b75: `boundary_points`
    is not used), so that its outliers lie around 0; here they lie where the paper puts them.

    Args:
        weight: λ.
        epochs, lr, batch_size: of Adam, with a cosine schedule to 0. In the code this is the last
            fifth of one schedule that starts at 0.001, so a tenth of that is the default.
        per_class: outliers a class.
        low, high: thresholds of the energy.
        spread, edge, tries, neighbours: see `virtual_outliers`.
    """

    needs_end: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    def __init__(
        self,
        weight: float = 0.1,
        *,
        epochs: int = 10,
        lr: float = 1e-4,
        batch_size: int = 128,
        per_class: int = 40,
        low: float = -15.0,
        high: float = -3.0,
        spread: float = 0.1,
        edge: int = 50,
        tries: int = 600,
        neighbours: int = 50,
    ) -> None:
        super().__init__()
        counts = (batch_size, per_class, edge, tries, neighbours)
        if min(counts) < 1 or epochs < 0 or min(lr, spread) <= 0 or weight < 0 or low > high:
            raise ConfigError(
                expected="sizes of at least 1, lr and spread above 0, low at most high",
                got=f"sizes {counts}, epochs={epochs}, lr={lr}, spread={spread}, "
                f"weight={weight}, low={low}, high={high}",
                remedy="Use epochs=0 to leave the head as it was trained.",
            )
        self.weight, self.epochs, self.lr, self.batch_size = weight, epochs, lr, batch_size
        self.per_class, self.low, self.high = per_class, low, high
        self.spread, self.edge, self.tries, self.neighbours = spread, edge, tries, neighbours

    def end(
        self,
        model: Any,
        batches: Iterable[Mapping[str, Tensor]],
        features: Float[Tensor, "n F"] | None,
        labels: Int[Tensor, " n"] | None,
        task: int,
    ) -> None:
        """Train what trains in the head for some epochs."""
        assert features is not None and labels is not None
        classes = torch.tensor(model.tasks[task], device=labels.device)
        columns = model.head.columns(classes)
        target = (labels[:, None] == classes).to(torch.int64).argmax(dim=1)
        parameters = [p for p in model.head.parameters() if p.requires_grad]
        batches_an_epoch = math.ceil(len(features) / self.batch_size)
        if not self.epochs or not parameters:
            return
        optimizer = Adam(parameters, self.lr)
        schedule = CosineAnnealingLR(optimizer, self.epochs * batches_an_epoch)
        for _ in range(self.epochs):
            made = self._draw(features, len(classes))
            shared = made[torch.randperm(len(made))].tensor_split(batches_an_epoch)
            order = torch.split(torch.randperm(len(features)), self.batch_size)
            for rows, outliers in zip(order, shared, strict=True):
                inside = model.head(features[rows])[:, columns]
                outside = model.head(outliers)[:, columns]
                loss = F.cross_entropy(inside, target[rows])
                if self.weight and len(outliers):
                    loss = loss + self.weight * outlier_loss(inside, outside, self.low, self.high)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        for parameter in parameters:
            parameter.grad = None

    def _draw(self, features: Float[Tensor, "n F"], classes: int) -> Float[Tensor, "m F"]:
        return virtual_outliers(
            features,
            self.per_class * classes,
            spread=self.spread,
            edge=self.edge,
            tries=self.tries,
            neighbours=self.neighbours,
        )
