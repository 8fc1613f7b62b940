"""Head: keeps which class each column of the logits stands for."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpool.errors import DataError, StateError

__all__ = ["Head", "anchored", "check_finite", "need_classes"]


def anchored(logits: Float[Tensor, "B C"], anchor: float) -> Float[Tensor, "B _"]:
    """Return logits with a last column for the anchor; without one where its weight is 0.

    >>> anchored(torch.zeros(1, 2), 1.0)
    tensor([[0., 0., 0.]])
    """
    if not anchor:
        return logits
    return torch.cat([logits, torch.full_like(logits[:, :1], math.log(anchor))], dim=1)


class Head(nn.Module):
    """Base of all heads: keeps which class each column of the logits stands for.

    Column j is class `classes[j]`, in the order in which the classes were seen; labels may be any
    whole numbers.

    Args:
        feature_size: F.
    """

    fits = False  # whether the head learns from all features of a task at its end
    ready = False  # whether it answers without having learned anything
    starts = False  # whether it looks at the unprompted features of a task before training
    routed = False  # whether `forward` takes the slot of each sample as well
    competes = True  # whether the classes of a task compete, so that it needs two of them
    anchors = True  # whether its logits may compete with that of an anchor, which is 0

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.feature_size = feature_size
        self.classes: list[int] = []
        self.groups: list[list[int]] = []
        self.pieces: dict[int, list[int]] = {}  # sizes of the pieces that an extended group has

    def check_classes(self, classes: Sequence[int]) -> None:
        """Refuse classes that cannot come, before anything is changed for them (heads that can)."""

    def begin_task(self, classes: Sequence[int]) -> None:
        """Make room for the classes that are new."""
        new = [int(c) for c in classes if int(c) not in self.classes]
        if new:
            self.grow(len(new))
        self.groups.append(new)
        self.classes.extend(new)

    def extend_task(self, classes: Sequence[int]) -> None:
        """Make room for classes that turn up while the task is learned; nothing is frozen.

        Raises:
            StateError: before `begin_task`, or by a head whose `begin_task` does more than make
                room and which does not say what extending means.
        """
        if type(self).begin_task is not Head.begin_task and (
            type(self).extend_task is Head.extend_task
        ):
            raise StateError(
                expected="a head that takes new classes within a task",
                got=type(self).__name__,
                remedy="Announce all classes when the task begins.",
            )
        need_classes(self.classes)
        new = [int(c) for c in classes if int(c) not in self.classes]
        if not new:
            return
        self.grow(len(new))
        number = len(self.groups) - 1
        self.pieces.setdefault(number, [len(self.groups[-1])]).append(len(new))
        self.groups[-1].extend(new)
        self.classes.extend(new)

    @abstractmethod
    def grow(self, n: int) -> None:
        """Add `n` columns."""

    @abstractmethod
    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the logits of the classes seen so far."""

    def answered(self, expert: Int[Tensor, " B"]) -> list[int] | None:
        """Return the classes that any of these slots answers for now; None where it is all.

        Args:
            expert: the slot of each sample.
        """
        return None

    def start(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]) -> None:
        """Look at a task's unprompted training features before it is trained (heads that do)."""

    def fit(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]) -> None:
        """Learn in closed form from a task's training features (heads that do)."""

    def loss(
        self,
        logits: Float[Tensor, "B _"],
        target: Int[Tensor, " B"],
        features: Float[Tensor, "B F"],
    ) -> Float[Tensor, ""]:
        """Return what is minimised: the cross-entropy, unless a head says otherwise.

        Args:
            logits: of this head, −inf where a class does not compete; more columns if others do.
            target: the column of each sample's class.
            features: that the logits were made from.
        """
        return F.cross_entropy(logits, target)

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

    def clear(self) -> None:
        """Become a head without classes; what was drawn when it was made stays.

        Raises:
            StateError: a head whose tasks share what they train.
        """
        raise self.shared()

    def join(self, other: "Head") -> None:
        """Learn what `other` has learned, as if its tasks had come after one's own.

        Args:
            other: of the same kind and settings, over features of the same kind.

        Raises:
            StateError: a head whose tasks share what they train, or classes that both know where
                that changes what a task learns.
        """
        raise self.shared()

    def forget(self, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Become the head that never saw a task.

        Args:
            task: its number.
            tasks: the classes of all tasks, that one among them.

        Raises:
            StateError: a head whose tasks share what they train, or that kept too little of the
                task to take it out.
        """
        raise self.shared()

    def shared(self) -> StateError:
        """Build the error for a head whose tasks cannot be told apart."""
        return StateError(
            expected="a head in which what a task learns depends on no other task",
            got=f"{type(self).__name__}, whose values tasks share",
            remedy="Learn the tasks in sequence instead, with those that shall be known.",
        )

    def without(self, task: int, tasks: Sequence[Sequence[int]]) -> list[int]:
        """Let the classes of a task go that no other has, and return the columns that stay.

        They are in the order in which the other tasks bring them; `classes` and `groups` follow.
        """
        seen: list[int] = []
        groups = []
        for number, classes in enumerate(tasks):
            if number != task:
                groups.append([c for c in classes if c not in seen])
                seen += groups[-1]
        columns = [self.classes.index(c) for c in seen]
        self.classes[:], self.groups[:], self.pieces = seen, groups, {}
        return columns

    def need_new(self, classes: Sequence[int]) -> None:
        """Refuse classes that are known already.

        Raises:
            StateError: naming them.
        """
        again = sorted({*classes} & {*self.classes})
        if again:
            raise StateError(
                expected="tasks without a class in common",
                got=f"classes {again[:5]} in several",
                remedy="What such a task learns depends on the one before it: learn them in "
                "sequence.",
            )

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this head again (JSON)."""
        pieces = {str(number): sizes for number, sizes in self.pieces.items()}
        return {"groups": self.groups, **({"pieces": pieces} if pieces else {})}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the tensors of a `layout`, ready for `load_state_dict`."""
        self.classes, self.groups, self.pieces = [], [], {}
        for number, group in enumerate(layout["groups"]):
            sizes = layout.get("pieces", {}).get(str(number), [])
            first = sizes[0] if sum(sizes) == len(group) and sizes else len(group)
            self.begin_task(group[:first])
            for size in sizes[1:] if first < len(group) else ():
                self.extend_task(group[first : first + size])
                first += size


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


def need_classes(classes: Sequence[int]) -> None:
    """Refuse to answer before any class is known."""
    if not classes:
        raise StateError(
            expected="a head that has seen at least one task",
            got="no classes",
            remedy="Call fit_task (or begin_task with the classes) first.",
        )
