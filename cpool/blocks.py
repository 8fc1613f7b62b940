"""Rows that lie in blocks: read across blocks, copied, combined and counted.

A pool and the keys of its policy hold their slots in the same blocks, each an `nn.Parameter`.
What is read here costs what is read, not what there is, so a pool may have thousands of blocks.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["Plan", "block_list", "leading", "read_rows", "rebuild", "share_counts", "starts_of"]

Plan: TypeAlias = Sequence[Sequence[Mapping[int, float]]]
"""New blocks of new slots, each `{old slot: coefficient}`; `{i: 1.0}` is slot i as it was."""


def block_list(blocks: nn.ParameterList) -> list[nn.Parameter]:
    """Return the blocks as a list, in order."""
    # Iterating over a ParameterList formats a name a block: 1 ms for 1,000 blocks, this 3 µs.
    return cast(list[nn.Parameter], list(blocks._parameters.values()))


def starts_of(sizes: Iterable[int]) -> list[int]:
    """Return the number of the first row of each block.

    >>> starts_of([3, 1, 2])
    [0, 3, 4]
    """
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += size
    return starts


def read_rows(
    blocks: nn.ParameterList, starts: Sequence[int], index: Int[Tensor, "*shape"]
) -> Float[Tensor, "..."]:
    """Read rows by their number; each row is read once, however often it is asked for.

    Gradients flow to the blocks that were read, and to no others.

    Args:
        blocks: the rows.
        starts: what `starts_of` says of their sizes.
        index: row numbers, any shape.
    """
    if len(starts) == 1:
        single: Tensor = blocks[0][index]
        return single
    asked, place = torch.unique(index, return_inverse=True)
    wanted: dict[int, list[int]] = {}
    for row in asked.tolist():
        block = bisect_right(starts, row) - 1
        wanted.setdefault(block, []).append(row - starts[block])
    # `asked` is sorted, so the parts lie in its order.
    parts = [_part(blocks[block], rows) for block, rows in wanted.items()]
    read = parts[0] if len(parts) == 1 else torch.cat(parts)
    return read[place]


def _part(block: Tensor, rows: list[int]) -> Tensor:
    return block if len(rows) == len(block) else block[rows]


def rebuild(blocks: nn.ParameterList, plan: Plan) -> nn.ParameterList:
    """Make blocks by a plan: a block that stays whole stays the same Parameter, others are frozen.

    A row that is copied is bit-identical; a combined one is summed in float64.
    """
    old = block_list(blocks)
    starts = starts_of(len(block) for block in old)
    whole = {
        tuple(range(start, start + len(block))): block
        for start, block in zip(starts, old, strict=True)
    }

    def row(parts: Mapping[int, float]) -> Tensor:
        rows = [old[b := bisect_right(starts, i) - 1].detach()[i - starts[b]] for i in parts]
        if list(parts.values()) == [1.0]:
            return rows[0]
        terms = [c * r.double() for c, r in zip(parts.values(), rows, strict=True)]
        return torch.stack(terms).sum(dim=0).to(rows[0].dtype)

    made = []
    for block in plan:
        copied = tuple(next(iter(parts)) for parts in block if list(parts.values()) == [1.0])
        if len(copied) == len(block) and copied in whole:
            made.append(whole[copied])
        else:
            made.append(nn.Parameter(torch.stack([row(p) for p in block]), requires_grad=False))
    return nn.ParameterList(made)


def leading(plan: Plan) -> list[int]:
    """Return the old slot of the largest coefficient for each new slot.

    >>> leading([[{0: 1.0}], [{1: 0.4, 2: 0.6}]])
    [0, 2]
    """
    return [max(parts, key=lambda i: abs(parts[i])) for block in plan for parts in block]


def share_counts(count: Float[Tensor, " M"], plan: Plan) -> Float[Tensor, " m"]:
    """Hand the count of each old slot in equal parts to the new slots that are made of it.

    >>> share_counts(torch.tensor([4.0, 2.0, 1.0]), [[{0: 0.5, 1: 0.5}], [{2: 1.0}]])
    tensor([6., 1.])
    """
    rows = [parts for block in plan for parts in block]
    heirs = torch.zeros_like(count)
    for parts in rows:
        heirs[list(parts)] += 1
    each = count / heirs.clamp_min(1)
    return torch.stack([each[list(parts)].sum() for parts in rows])
