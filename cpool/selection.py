"""What a policy answers: which slots a query gets, and how they are combined."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Selection"]


class Selection(NamedTuple):
    """The slots that each query of a batch gets.

    Attributes:
        index: slot numbers, best first, [B K]; [1 K] when every query gets the same.
        weight: None to concatenate the K slots, else their weights in a sum, [B K].
        loss: what the policy adds to the training loss (key pull, orthogonality), a scalar.
        similarity: cosine (or minus distance) of the query to each chosen slot, [B K], if any.
        fits: False for queries that no slot is near enough to, [B]; None: all fit.
        real: False for prompt tokens that are padding, since other rows have longer slots, [B N];
            None: there are none.
    """

    index: Int[Tensor, "B K"]  # type: ignore[assignment]  # hides tuple.index, never used here
    weight: Float[Tensor, "B K"] | None
    loss: Float[Tensor, ""]
    similarity: Float[Tensor, "B K"] | None = None
    fits: Bool[Tensor, " B"] | None = None
    real: Bool[Tensor, "B N"] | None = None
