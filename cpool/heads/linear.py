"""LinearHead: a linear classifier that grows with the classes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cpool.heads.base import Head, need_classes

__all__ = ["LinearHead"]


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

    def extend_task(self, classes: Sequence[int]) -> None:
        """Add rows for new classes; no rows are frozen by it."""
        super().extend_task(classes)

    def grow(self, n: int) -> None:
        """Add `n` rows."""
        device = self.get_buffer("anchor").device
        rows = torch.empty(n, self.feature_size).normal_(0, self.std) if self.std else None
        weight = torch.zeros(n, self.feature_size) if rows is None else rows
        self.weights.append(nn.Parameter(weight.to(device)))
        self.biases.append(nn.Parameter(torch.zeros(n, device=device)))

    def clear(self) -> None:
        """Become a head without classes."""
        self.classes, self.groups, self.pieces = [], [], {}
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()

    def join(self, other: Head) -> None:
        """Append the rows of another head.

        Raises:
            StateError: rows that other tasks train on, or classes that both have.
        """
        assert isinstance(other, LinearHead)
        self._need_own()
        self.need_new(other.classes)
        self.groups += [list(group) for group in other.groups]
        self.classes += other.classes
        for parameter in self.parameters():
            parameter.requires_grad_(False).grad = None
        for mine, others in ((self.weights, other.weights), (self.biases, other.biases)):
            mine.extend([nn.Parameter(p.detach().clone(), p.requires_grad) for p in others])

    def forget(self, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Drop the rows of a task.

        Raises:
            StateError: rows that other tasks have trained on.
        """
        self._need_own()
        groups = [group for number, group in enumerate(self.groups) if number != task]
        place = sum(1 for group in self.groups[:task] if group)
        if self.groups[task]:
            for name in ("weights", "biases"):
                kept = [p for number, p in enumerate(getattr(self, name)) if number != place]
                setattr(self, name, nn.ParameterList(kept))
        self.groups, self.classes = groups, [c for group in groups for c in group]

    def _need_own(self) -> None:
        if not self.freeze_old or self.pieces:
            raise self.shared()

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return `W f + b`."""
        need_classes(self.classes)
        weight, bias = torch.cat(list(self.weights)), torch.cat(list(self.biases))
        return F.linear(features.to(weight.dtype), weight, bias)
