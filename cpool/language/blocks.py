"""Word logits are wide: what is computed from them is computed for a few states at a time."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["by_blocks"]

# Numbers of one block of word logits: 64 MB of float32, of which a few are held at a time.
BLOCK = 2**24

Made = TypeVar("Made")


def by_blocks(compute: Callable[..., Made], width: int, *rows: Tensor) -> list[Made]:
    """Return what `compute` makes of each block of rows; gradients run it once more, unkept.

    Args:
        compute: gets a block of each of `rows`, and makes word logits of some.
        width: V, how many words are scored.
        rows: tensors of as many rows each, cut at the same places.

    >>> by_blocks(lambda part: int(part.sum()), BLOCK // 2, torch.tensor([1, 2, 3]))
    [3, 3]
    """
    step = max(1, BLOCK // width)
    trains = torch.is_grad_enabled() and any(part.requires_grad for part in rows)
    made = []
    for start in range(0, len(rows[0]), step):
        block = [part[start : start + step] for part in rows]
        if trains and len(rows[0]) > step:
            made.append(checkpoint(compute, *block, use_reentrant=False))
        else:
            made.append(compute(*block))
    return made
