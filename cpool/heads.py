"""Heads: from features [B F] to logits [B C] over the classes seen so far."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpool.errors import DataError, StateError

__all__ = ["Head", "LinearHead", "PrototypeHead"]


class Head(nn.Module):
    """Base of all heads: keeps which class each column of the logits stands for.

    Column j is class `classes[j]`, in the order in which the classes were seen; labels may be any
    whole numbers.

    Args:
        feature_size: F.
    """

    fits = False  # whether the head learns from all features of a task at its end

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.feature_size = feature_size
        self.classes: list[int] = []
        self.groups: list[list[int]] = []

    def begin_task(self, classes: Sequence[int]) -> None:
        """Make room for the classes that are new."""
        new = [int(c) for c in classes if int(c) not in self.classes]
        if new:
            self.grow(len(new))
        self.groups.append(new)
        self.classes.extend(new)

    @abstractmethod
    def grow(self, n: int) -> None:
        """Add `n` columns."""

    @abstractmethod
    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the logits of the classes seen so far."""

    def fit(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]) -> None:
        """Learn in closed form from a task's training features (heads that do)."""

    def columns(self, labels: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return the column of each label.

        Raises:
            DataError: a label that no task has announced.
        """
        known = torch.tensor(self.classes, device=labels.device, dtype=labels.dtype)
        match = labels[:, None] == known[None, :]
        found = match.any(dim=1)
        if not bool(found.all()):
            raise DataError(
                expected=f"labels among the classes seen so far, {sorted(self.classes)}",
                got=f"{sorted(set(labels[~found].tolist()))}",
                remedy="Call begin_task with the classes of the task before training on it.",
            )
        return match.to(torch.int64).argmax(dim=1)

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this head again (JSON)."""
        return {"groups": self.groups}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the tensors of a `layout`, ready for `load_state_dict`."""
        self.classes, self.groups = [], []
        for group in layout["groups"]:
            self.begin_task(group)


class LinearHead(Head):
    """A linear classifier that grows with the classes, one block of rows a task.

    Args:
        feature_size: F.
        freeze_old: freeze the rows of earlier tasks: bit-identical from then on.
        std: rows start from N(0, std²), biases from 0.

    >>> head = LinearHead(feature_size=4)
    >>> head.begin_task([3, 7]); head.begin_task([1])
    >>> head(torch.zeros(2, 4)).shape, head.classes
    (torch.Size([2, 3]), [3, 7, 1])
    """

    def __init__(self, feature_size: int, *, freeze_old: bool = False, std: float = 0.02) -> None:
        super().__init__(feature_size)
        self.freeze_old, self.std = freeze_old, std
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.register_buffer("anchor", torch.zeros(0), persistent=False)  # knows the device

    def begin_task(self, classes: Sequence[int]) -> None:
        """Freeze the old rows if asked for, and add rows for new classes."""
        if self.freeze_old:
            for parameter in self.parameters():
                parameter.requires_grad_(False).grad = None
        super().begin_task(classes)

    def grow(self, n: int) -> None:
        """Add `n` rows."""
        device = self.get_buffer("anchor").device
        rows = torch.empty(n, self.feature_size).normal_(0, self.std) if self.std else None
        weight = torch.zeros(n, self.feature_size) if rows is None else rows
        self.weights.append(nn.Parameter(weight.to(device)))
        self.biases.append(nn.Parameter(torch.zeros(n, device=device)))

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return `W f + b`."""
        _need_classes(self.classes)
        weight, bias = torch.cat(list(self.weights)), torch.cat(list(self.biases))
        return F.linear(features.to(weight.dtype), weight, bias)


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

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the cosine to each class mean; −inf for a class without samples."""
        _need_classes(self.classes)
        means = F.normalize(self.sums, dim=1).float()  # the direction of the sum is the mean's
        logits = F.normalize(features.float(), dim=1) @ means.T
        return logits.masked_fill(self.counts == 0, -math.inf)


def check_finite(features: Float[Tensor, "n F"]) -> None:
    """Refuse NaN and infinite features, which would spoil a closed-form head for ever.

    Raises:
        DataError: with the number of bad rows.
    """
    bad = int((~torch.isfinite(features)).any(dim=1).sum())
    if bad:
        raise DataError(
            expected="finite features",
            got=f"NaN or infinity in {bad} of {len(features)} rows",
            remedy="Check the inputs and the model's precision (float16 overflows easily).",
        )


def _need_classes(classes: Sequence[int]) -> None:
    if not classes:
        raise StateError(
            expected="a head that has seen at least one task",
            got="no classes",
            remedy="Call fit_task (or begin_task with the classes) first.",
        )
