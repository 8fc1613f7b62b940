"""ExpertHead: a head a slot, so that each sample is answered by the expert it was sent to."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpool.heads.base import Head, need_classes

__all__ = ["ExpertHead"]


class ExpertHead(Head):
    """One head of its own for each slot, over the classes of the tasks that use it.

    A sample is answered by the head of the slot it got; classes that this head does not know get
    −inf. In a domain-incremental stream all heads have the same classes, in a class-incremental
    one each has its task's.

    Args:
        feature_size: F.
        make: makes a head.
        freeze_old: freeze the heads of earlier tasks.
        fits: whether the heads are fitted in closed form.

    Attributes:
        current: the head that the next tasks extend, or None where each task gets one.
    """

    routed = True

    def __init__(
        self,
        feature_size: int,
        make: Callable[[], Head],
        *,
        freeze_old: bool = True,
        fits: bool = False,
    ) -> None:
        super().__init__(feature_size)
        self.make, self.freeze_old = make, freeze_old
        self.current: int | None = None
        self.experts = nn.ModuleList()
        self.register_buffer("anchor", torch.zeros(0), persistent=False)  # knows the device
        self.fits = fits

    def begin_task(self, classes: Sequence[int]) -> None:
        """Freeze the old heads, and make room for the classes of the task."""
        self._freeze_old()
        if self.current is None or self.current >= len(self.experts):
            self.experts.append(self.make().to(self.get_buffer("anchor").device))
        self.expert(self.current).begin_task(classes)
        super().begin_task(classes)

    def _freeze_old(self) -> None:
        if self.freeze_old:
            for parameter in self.parameters():
                parameter.requires_grad_(False).grad = None

    def expert(self, number: int | None) -> Head:
        """Return a head by its slot, the newest for None."""
        head = self.experts[-1 if number is None else number]
        assert isinstance(head, Head)
        return head

    def drop_newest(self) -> None:
        """Remove the newest head, which nothing has been fitted to yet."""
        del self.experts[-1]

    def grow(self, n: int) -> None:
        """Do nothing: the columns belong to the experts."""

    def fit(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]) -> None:
        """Fit the head of the task, where heads are fitted."""
        self.expert(self.current).fit(features, labels)

    def forward(
        self, features: Float[Tensor, "B F"], expert: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B C"]:
        """Return the logits of each sample's expert, −inf for classes it does not know."""
        need_classes(self.classes)
        if expert is None:
            expert = torch.full((len(features),), len(self.experts) - 1, device=features.device)
        logits = features.new_full((len(features), len(self.classes)), -math.inf, dtype=torch.float)
        place = {c: column for column, c in enumerate(self.classes)}
        for number in sorted(set(expert.tolist())):
            head, rows = self.expert(number), (expert == number).nonzero()[:, 0]
            columns = torch.tensor([place[c] for c in head.classes], device=features.device)
            part = head(features[rows]).to(logits.dtype)
            logits = logits.index_put((rows[:, None], columns[None, :]), part)
        return logits

    def clear(self) -> None:
        """Drop all experts, or what they know where they stay for the tasks to come."""
        self.classes, self.groups = [], []
        if self.current is None:
            self.experts = nn.ModuleList()
        for number in range(len(self.experts)):
            self.expert(number).clear()

    def join(self, other: Head) -> None:
        """Take over the experts of another head, or let each learn what its like has learned."""
        assert isinstance(other, ExpertHead)
        if self.current is None:
            self._freeze_old()
            for number in range(len(other.experts)):
                expert = copy.deepcopy(other.expert(number))
                self.experts.append(expert)
                super().begin_task(expert.classes)
            return
        for number in range(len(other.experts)):
            self.expert(number).join(other.expert(number))
        for group in other.groups:
            super().begin_task(group)

    def forget(self, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Drop the expert of a task."""
        if self.current is not None:
            raise self.shared()  # the router says whose rows are in which head: `cpool.exact`
        del self.experts[task]
        self.without(task, tasks)

    def layout(self) -> dict[str, Any]:
        """Return the layout of every head."""
        experts = [head.layout() for head in self.experts if isinstance(head, Head)]
        trains = [any(p.requires_grad for p in head.parameters()) for head in self.experts]
        return {**super().layout(), "experts": experts, "trains": trains}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the heads of `layout`."""
        self.classes, self.groups = [], []
        self.experts = nn.ModuleList()
        for group in layout["groups"]:
            self.groups.append(list(group))
            self.classes.extend(group)
        for part, trains in zip(layout["experts"], layout["trains"], strict=True):
            head = self.make()
            head.restore(part)
            head.requires_grad_(trains)
            self.experts.append(head.to(self.get_buffer("anchor").device))
