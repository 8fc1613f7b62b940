"""Output: what a prompted model answers for a batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from cpool.selection import Selection

__all__ = ["Output"]


@dataclass(frozen=True)
class Output:
    """What a prompted model answers for a batch.

    Attributes:
        logits: [B C]; column j is class `model.classes[j]`. It is −inf where a class does not
            compete at test and, where labels are scored by words, also in a step of training.
        loss: cross-entropy plus the policies' losses; None without labels.
        losses: the terms of the loss by name.
        selections: branch name → which slots each sample got.
        features: what the head was given, [B F].
    """

    logits: Float[Tensor, "B C"]
    loss: Float[Tensor, ""] | None
    losses: dict[str, Tensor] = field(default_factory=dict)
    selections: Mapping[str, Selection] = field(default_factory=dict)
    features: Tensor | None = None
