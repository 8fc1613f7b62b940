"""MaskedHead: a linear classifier whose logits each slot scales by a learned mask."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpool.heads.base import Head
from cpool.heads.linear import LinearHead

__all__ = ["MaskedHead"]


class MaskedHead(Head):
    """Logits `(W f + b) ⊙ 2 σ(m_s)`, m_s a row a class for the slot s of the sample.

    Moon et al., *MVP*, ICCV 2023 (instance-wise logit masking). Masks start at −1,
    as in the code, and grow with the classes; nothing is frozen, since any class may come again.

    Args:
        feature_size: F.
        slots: M, how many slots there are.
    """

    routed = True

    def __init__(self, feature_size: int, slots: int) -> None:
        super().__init__(feature_size)
        self.slots = slots
        self.linear = LinearHead(feature_size)
        self.masks = nn.ParameterList()

    def grow(self, n: int) -> None:
        """Add `n` rows, and as many columns to the masks."""
        first = len(self.classes)
        self.linear.begin_task(range(first, first + n))  # which class is which is kept here
        device = self.linear.get_buffer("anchor").device
        self.masks.append(nn.Parameter(torch.full((self.slots, n), -1.0, device=device)))

    def forward(
        self, features: Float[Tensor, "B F"], expert: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B C"]:
        """Return the logits, scaled by the mask of each sample's slot if it is given."""
        logits: Tensor = self.linear(features)
        return logits if expert is None else logits * self.factors(expert)

    def factors(self, expert: Int[Tensor, " B"]) -> Float[Tensor, "B C"]:
        """Return by what the logits of each sample's slot are scaled."""
        return 2 * torch.cat(list(self.masks), dim=1)[expert].sigmoid()

    def rows(self) -> Float[Tensor, "C F"]:
        """Return W."""
        return torch.cat(list(self.linear.weights))

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the rows and masks of `layout`."""
        self.linear = LinearHead(self.feature_size).to(self.linear.get_buffer("anchor").device)
        self.masks = nn.ParameterList()
        super().restore(layout)
