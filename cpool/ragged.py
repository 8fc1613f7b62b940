"""Prompts of different length in one batch: where they are, and padding that is in nobody's way."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["beside", "packed"]


def packed(
    values: Float[Tensor, "B S N W"], real: Bool[Tensor, "B N"]
) -> tuple[Float[Tensor, "B S n W"], Bool[Tensor, "B n"] | None]:
    """Move the tokens of each row to the right and drop columns in which no row has any.

    On the right they stand beside the text, at the distance that they have without padding. No mask
    is returned where all rows have as many tokens. One row expanded stays that.

    >>> values = torch.tensor([[1.0, 0, 2, 0], [3, 0, 0, 0]])
    >>> values, real = packed(values[:, None, :, None], values > 0)
    >>> values.flatten(1).tolist(), real.tolist()
    ([[1.0, 2.0], [0.0, 3.0]], [[True, True], [False, True]])
    """
    if len(real) > 1 and real.stride(0) == 0 and values.stride(0) == 0:
        one, _ = packed(values[:1], real[:1])
        return one.expand(len(real), -1, -1, -1), None
    order = real.int().argsort(dim=1, stable=True)
    counts = real.sum(dim=1)
    width = int(counts.max())
    order = order[:, order.shape[1] - width :]
    place = order[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    moved = values.gather(2, place)
    if bool((counts == width).all()):
        return moved, None
    return moved, real.gather(1, order)


def beside(
    parts: Sequence[tuple[Tensor, Bool[Tensor, "B _"] | None]], dim: int
) -> tuple[Tensor, Bool[Tensor, "B N"] | None]:
    """Put tokens of several prompts one after the other along `dim`, and their masks likewise.

    One row expanded, of each of them, stays that.
    """
    values, masks = [value for value, _ in parts], [mask for _, mask in parts]
    if len(parts) == 1:
        return parts[0]
    size = len(values[0])
    alike = all(len(part) > 1 and part.stride(0) == 0 for part in values)
    if all(mask is None for mask in masks):
        if alike:
            one = torch.cat([part[:1] for part in values], dim)
            return one.expand(size, *one.shape[1:]), None
        return torch.cat(values, dim), None
    whole = [
        value.new_ones(size, value.shape[dim], dtype=torch.bool) if mask is None else mask
        for value, mask in parts
    ]
    return torch.cat(values, dim), torch.cat(whole, 1)
