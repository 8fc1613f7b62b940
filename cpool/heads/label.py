"""LabelHead: the answer of a language model, which names a class by its words."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.errors import StateError
from cpool.heads.base import Head
from cpool.language import LabelWords

__all__ = ["LabelHead"]


class LabelHead(Head):
    """Logits are the scores of the labels' words, `log p(label | prompts, text)`; nothing trains.

    With `normalise="mean"` a score is divided by the number of its tokens, which is fairer to long
    labels and worse as a probability. What `prior` holds is subtracted at test (calibration: Zhao
    et al., *Calibrate before use*, ICML 2021, in the logarithm).

    Args:
        words: of the classes, shared with the readout that scores them.
        routed: let a slot answer for the classes of its own task alone.
        normalise: "sum" or "mean" over the tokens of a label.
        ready: whether there is nothing to train in front of it, either.
    """

    anchors = False

    def __init__(
        self,
        words: LabelWords,
        *,
        normalise: Literal["sum", "mean"] = "sum",
        routed: bool = False,
        ready: bool = False,
    ) -> None:
        super().__init__(0)
        self.words, self.normalise = words, normalise
        self.routed, self.ready = routed, ready
        self.owned: list[list[int]] = []  # classes by task, which is the slot where it is routed
        self.register_buffer("prior", torch.zeros(0))

    def check_classes(self, classes: Sequence[int]) -> None:
        """Refuse classes without a name, and words that are the same as others'."""
        self.words.expect(classes)

    def begin_task(self, classes: Sequence[int]) -> None:
        """Make room for the classes that are new, and let their words be scored."""
        super().begin_task(classes)
        self.owned.append([int(c) for c in classes])
        self.words.classes = list(self.classes)

    def extend_task(self, classes: Sequence[int]) -> None:
        """Add classes that turn up while a task is learned."""
        super().extend_task(classes)
        self.owned[-1] = sorted({*self.owned[-1], *map(int, classes)})
        self.words.classes = list(self.classes)

    def grow(self, n: int) -> None:
        """Add `n` labels, without a prior."""
        prior = self.get_buffer("prior")
        self.prior = torch.cat([prior, prior.new_zeros(n)])

    def forward(
        self, features: Float[Tensor, "B C"], expert: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B C"]:
        """Return the scores; at test without their prior, and −inf outside of a slot's task."""
        logits = features.float()
        if self.normalise == "mean":
            logits = logits / self.words.trie.lengths().to(logits)
        if self.training:
            # A prior is of a prompt as a task left it; the model says which classes compete.
            return logits
        logits = logits - self.get_buffer("prior")
        if not self.routed or expert is None:
            return logits
        mine = torch.tensor(
            [[c in own for c in self.classes] for own in self.owned], device=logits.device
        )
        return logits.masked_fill(~mine[expert], -torch.inf)

    def answered(self, expert: Int[Tensor, " B"]) -> list[int] | None:
        """Return the classes of the tasks of these slots; only their words are worth a pass."""
        if not self.routed or self.training:
            return None
        return sorted({c for slot in set(expert.tolist()) for c in self.owned[slot]}) or None

    def clear(self) -> None:
        """Become a head without classes; names stay."""
        self.classes, self.groups, self.pieces, self.owned = [], [], {}, []
        self.prior = self.get_buffer("prior")[:0].clone()
        self.words.classes = []

    def join(self, other: Head) -> None:
        """Score the classes of another head, too.

        Raises:
            StateError: a class has another name there.
        """
        assert isinstance(other, LabelHead)
        mine, others = self.words.names or (), other.words.names or ()
        known = min(len(mine), len(others))
        if mine[:known] != others[:known]:
            raise StateError(
                expected=f"the same names of classes, {', '.join(mine[:5])}",
                got=f"{', '.join(others[:5])}",
                remedy="Number and name all classes alike before the models learn.",
            )
        self.words.names = (mine if len(mine) >= len(others) else others) or None
        for classes in other.owned:
            self.begin_task(classes)
        columns = self.columns(torch.tensor(other.classes).long()).to(
            self.get_buffer("prior").device
        )
        self.get_buffer("prior")[columns] = other.get_buffer("prior")

    def forget(self, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Score the classes of a task no more."""
        columns = self.without(task, tasks)
        self.prior = self.get_buffer("prior")[columns].clone()
        del self.owned[task]
        self.words.classes = list(self.classes)

    def layout(self) -> dict[str, Any]:
        """Return the classes and what they are called."""
        names = self.words.names
        named = None if names is None else list(names)
        return {**super().layout(), "names": named, "owned": self.owned}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the labels of `layout`, under the names that they had."""
        if layout["names"] is not None:
            self.words.names = tuple(layout["names"])
        self.prior = self.get_buffer("prior").new_zeros(0)
        self.owned = []
        super().restore(layout)
        self.owned = [list(classes) for classes in layout["owned"]]
