"""Learned keys in blocks, frozen together with the prompts that they lead to."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpool.blocks import Plan, block_list, read_rows, rebuild, starts_of

__all__ = ["KeyBlocks"]


class KeyBlocks(nn.Module):
    """One vector of width Q per slot, grown block by block, each block a Parameter.

    Frozen blocks are joined once, not at every call: the join is kept until a frozen block
    changes, and is no part of the state.

    >>> keys = KeyBlocks(width=8)
    >>> keys.grow(3); keys.grow(1)
    >>> keys().shape
    torch.Size([4, 8])
    """

    def __init__(self, width: int, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        self.width, self.low, self.high = width, low, high
        self.blocks = nn.ParameterList()
        self._starts: list[int] = []
        self._joined: tuple[tuple[Any, ...], Tensor] | None = None
        self._inverse: tuple[tuple[Any, ...], Tensor] | None = None

    def __len__(self) -> int:
        """Return M, the number of keys."""
        return self._starts[-1] + len(self.blocks[-1]) if self._starts else 0

    def grow(self, n: int, device: torch.device | None = None) -> None:
        """Add a block of `n` keys from U(low, high)."""
        values = torch.empty(n, self.width).uniform_(self.low, self.high)
        self._starts.append(len(self))
        self.blocks.append(nn.Parameter(values.to(device)))

    def sizes(self) -> list[int]:
        """Return the number of keys of each block."""
        return [len(block) for block in block_list(self.blocks)]

    def frozen(self) -> list[bool]:
        """Return which blocks are frozen."""
        return [not block.requires_grad for block in block_list(self.blocks)]

    def restore(self, sizes: list[int], frozen: list[bool], device: torch.device) -> None:
        """Make blocks of the given sizes, ready for `load_state_dict`."""
        self.blocks = nn.ParameterList(
            nn.Parameter(torch.zeros(n, self.width, device=device), requires_grad=not f)
            for n, f in zip(sizes, frozen, strict=True)
        )
        self._starts, self._joined = starts_of(sizes), None

    def recombine(self, plan: Plan) -> None:
        """Make all keys anew by a plan of `cpool.blocks`."""
        self.blocks = rebuild(self.blocks, plan)
        self._starts, self._joined = starts_of(len(block) for block in plan), None

    def stamp(self) -> tuple[Any, ...]:
        """Return what differs after any change of a key: growth, a step, a load, a move."""
        return tuple(map(_stamp, block_list(self.blocks)))

    def parts(self) -> Iterator[Float[Tensor, "m Q"]]:
        """Yield the keys in their order, frozen blocks joined."""
        blocks = block_list(self.blocks)
        old = next((i for i, b in enumerate(blocks) if b.requires_grad), len(blocks))
        if old > 1:
            stamp = tuple(map(_stamp, blocks[:old]))
            if self._joined is None or self._joined[0] != stamp:
                self._joined = stamp, torch.cat([block.detach() for block in blocks[:old]])
            yield self._joined[1]
        yield from blocks[old:] if old > 1 else blocks

    def forward(self) -> Float[Tensor, "M Q"]:
        """Return all keys, in the order of the slots."""
        parts = list(self.parts())
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def read(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape Q"]:
        """Read keys by number; the cost is that of the keys read."""
        return read_rows(self.blocks, self._starts, index)

    def cosine(
        self, query: Float[Tensor, "B Q"], index: Int[Tensor, "B K"]
    ) -> Float[Tensor, "B K"]:
        """Return the cosines of each query and its own keys, with gradients to those keys.

        Each is summed for itself, so it is the same in any batch to the last bit.
        """
        keys = F.normalize(self.read(index).float(), dim=-1)
        return (F.normalize(query.float(), dim=1).unsqueeze(1) * keys).sum(dim=-1)

    @torch.no_grad()
    def inverse_norms(self) -> Float[Tensor, " M"]:
        """Return 1 / ‖k‖ of every key, computed anew only when a key changed."""
        stamp = self.stamp()
        if self._inverse is None or self._inverse[0] != stamp:
            norms = [block.float().norm(dim=1) for block in self.parts()]
            self._inverse = stamp, torch.cat(norms).clamp_min(1e-12).reciprocal()
        return self._inverse[1]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "KeyBlocks":
        self._joined = self._inverse = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _stamp(block: nn.Parameter) -> tuple[Any, ...]:
    # `_version` counts writes in place: optimiser steps, `copy_`, `load_state_dict`.
    return id(block), block._version, block.data_ptr(), block.device, len(block)
