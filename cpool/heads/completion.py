"""CompletionHead: how probable what shall follow a text is, and whose prompt said so."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.heads.base import Head

__all__ = ["CompletionHead"]


class CompletionHead(Head):
    r"""Logits are `log p(completion | prompts, text)`, the same for every class; nothing trains.

    A class stands for a task of completions and competes with no other in training. The loss is
    `−Σ_b Σ_i log p(y_bi | P, x_b, y_b<i) / Σ_b |y_b|`, the mean over all completion tokens of a
    batch, the end included (Lester et al., EMNLP 2021, https://arxiv.org/abs/2104.08691).

    Args:
        routed: let a slot answer for the classes of its own task alone: then the most probable
            class of a row says which task it was sent to.
        ready: whether there is nothing to train in front of it, either.
    """

    competes = False
    anchors = False

    def __init__(self, *, routed: bool = False, ready: bool = False) -> None:
        super().__init__(2)
        self.routed, self.ready = routed, ready
        self.owned: list[list[int]] = []  # classes by task, which is the slot where it is routed

    def begin_task(self, classes: Sequence[int]) -> None:
        """Make room for the class of a task."""
        super().begin_task(classes)
        self.owned.append([int(c) for c in classes])

    def grow(self, n: int) -> None:
        """Nothing grows: a class has no tensor."""

    def forward(
        self, features: Float[Tensor, "B 2"], expert: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B C"]:
        """Return the log-probability of each completion; −inf outside of a slot's task."""
        logits = features[:, :1].float().expand(-1, len(self.classes))
        if not self.routed or expert is None or self.training:
            return logits
        mine = torch.tensor(
            [[c in own for c in self.classes] for own in self.owned], device=logits.device
        )
        return logits.masked_fill(~mine[expert], -torch.inf)

    def clear(self) -> None:
        """Become a head without classes."""
        self.classes, self.groups, self.pieces, self.owned = [], [], {}, []

    def join(self, other: Head) -> None:
        """Answer for the tasks of another head, too."""
        assert isinstance(other, CompletionHead)
        for classes in other.owned:
            self.begin_task(classes)

    def forget(self, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Answer for a task no more."""
        self.without(task, tasks)
        del self.owned[task]

    def loss(
        self,
        logits: Float[Tensor, "B C"],
        target: Int[Tensor, " B"],
        features: Float[Tensor, "B 2"],
    ) -> Float[Tensor, ""]:
        """Return the mean over the tokens of all completions; classes do not enter."""
        return -features[:, 0].sum() / features[:, 1].sum()

    def layout(self) -> dict[str, Any]:
        """Return the classes, and whose they are."""
        return {**super().layout(), "owned": self.owned}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the classes of `layout`."""
        self.owned = []
        super().restore(layout)
        self.owned = [list(classes) for classes in layout["owned"]]
