"""PrototypeHead: nearest class mean."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.errors import StateError
from cpool.heads.base import Head, check_finite, need_classes

__all__ = ["PrototypeHead"]


class PrototypeHead(Head):
    """Nearest class mean: the logits are cosines to the mean feature of each class.

    Mensink et al., 2013; SimpleCIL (Zhou et al., 2023) is this head on a frozen model. Sums and
    counts are kept in float64, so the order of the samples does not matter, and tasks add up.

    Args:
        feature_size: F.
        normalize: divide each feature by its L2 norm before it enters the mean.
    """

    fits = True

    def __init__(self, feature_size: int, *, normalize: bool = False) -> None:
        super().__init__(feature_size)
        self.normalize = normalize
        self.sums: Float[Tensor, "C F"]
        self.counts: Int[Tensor, " C"]
        self.register_buffer("sums", torch.zeros(0, feature_size, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))

    def grow(self, n: int) -> None:
        """Add `n` classes without samples."""
        self.sums = torch.cat([self.sums, self.sums.new_zeros(n, self.feature_size)])
        self.counts = torch.cat([self.counts, self.counts.new_zeros(n)])

    def fit(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]) -> None:
        """Add a task's features to the class sums."""
        check_finite(features)
        if self.normalize:
            features = F.normalize(features, dim=1)
        columns = self.columns(labels)
        self.sums.index_add_(0, columns, features.to(self.sums.dtype))
        self.counts += torch.bincount(columns, minlength=len(self.classes))

    def clear(self) -> None:
        """Become a head without classes."""
        self.classes, self.groups, self.pieces = [], [], {}
        self.sums, self.counts = self.sums[:0].clone(), self.counts[:0].clone()

    def join(self, other: Head) -> None:
        """Add the sums and counts of another head."""
        assert isinstance(other, PrototypeHead)
        for group in other.groups:
            self.begin_task(group)
        columns = self.columns(torch.tensor(other.classes, device=self.sums.device).long())
        self.sums.index_add_(0, columns, other.sums)
        self.counts.index_add_(0, columns, other.counts)

    def forget(self, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Drop the sums of a task's classes.

        Raises:
            StateError: another task has one of its classes.
        """
        others = [c for number, group in enumerate(tasks) if number != task for c in group]
        if shared := sorted({*others} & {*tasks[task]}):
            raise StateError(
                expected="a task whose classes no other has, since sums are kept by class",
                got=f"task {task}, which shares {shared[:5]}",
                remedy="Use Ridge(forgettable=True), which keeps the share of each task.",
            )
        columns = self.without(task, tasks)
        self.sums, self.counts = self.sums[columns].clone(), self.counts[columns].clone()

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the cosine to each class mean; −inf for a class without samples."""
        need_classes(self.classes)
        means = F.normalize(self.sums, dim=1).float()  # the direction of the sum is the mean's
        logits = F.normalize(features.float(), dim=1) @ means.T
        return logits.masked_fill(self.counts == 0, -math.inf)
