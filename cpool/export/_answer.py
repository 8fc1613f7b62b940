"""From features to logits under a fixed selection: the head, and the classes that compete."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cpool.errors import StateError
from cpool.heads import ExpertHead, Head, SessionHead

__all__ = ["FixedHead"]


class FixedHead(nn.Module):
    """The head of a model, for samples that all got the same slot.

    Args:
        head: of the model.
        slot: the first slot of the first branch, which a routed head answers for; or None.
        allowed: classes that compete; the others get −inf. All by default.

    Raises:
        StateError: a task that has begun and not ended.
    """

    def __init__(self, head: Head, slot: int | None, allowed: Sequence[int] | None) -> None:
        super().__init__()
        if isinstance(head, SessionHead):
            if head.probe is not None:
                raise StateError(
                    expected="a task that has ended",
                    got="one that still trains",
                    remedy="Call end_task, or export between two tasks.",
                )
            head = head.lasting
        classes = list(head.classes)
        self.slot = slot if head.routed else None
        self.columns: Tensor | None
        self.register_buffer("columns", None)
        if isinstance(head, ExpertHead):
            # A class that the expert does not know reads the column of −inf behind its own.
            head = head.expert(self.slot)
            self.slot = None
            known = {c: column for column, c in enumerate(head.classes)}
            self.columns = torch.tensor([known.get(c, len(known)) for c in classes])
        self.excluded: Bool[Tensor, " C"] | None
        self.register_buffer("excluded", None)
        if allowed is not None:
            self.excluded = torch.tensor([c not in set(allowed) for c in classes])
        # Not a submodule: a closed-form head keeps statistics of training data beside its weights,
        # and what no step of the program reads shall not travel with it.
        self._head = (head,)

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the logits."""
        head, size = self._head[0], features.shape[0]
        if self.slot is None:
            logits: Tensor = head(features)
        else:
            expert = torch.full((size,), self.slot, dtype=torch.int64, device=features.device)
            logits = head(features, expert)
        if self.columns is not None:
            nothing = logits.new_full((size, 1), -math.inf)
            logits = torch.cat([logits, nothing], 1).index_select(1, self.columns)
        if self.excluded is not None:
            logits = logits.masked_fill(self.excluded, -math.inf)
        return logits.float()
