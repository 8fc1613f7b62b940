"""Learned keys in blocks, frozen together with the prompts that they lead to."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["KeyBlocks"]


class KeyBlocks(nn.Module):
    """One vector of width Q per slot, grown block by block, each block a Parameter.

    >>> keys = KeyBlocks(width=8)
    >>> keys.grow(3); keys.grow(1)
    >>> keys().shape
    torch.Size([4, 8])
    """

    def __init__(self, width: int, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        self.width, self.low, self.high = width, low, high
        self.blocks = nn.ParameterList()

    def grow(self, n: int, device: torch.device | None = None) -> None:
        """Add a block of `n` keys from U(low, high)."""
        values = torch.empty(n, self.width).uniform_(self.low, self.high)
        self.blocks.append(nn.Parameter(values.to(device)))

    def sizes(self) -> list[int]:
        """Return the number of keys of each block."""
        return [len(block) for block in self.blocks]

    def frozen(self) -> list[bool]:
        """Return which blocks are frozen."""
        return [not block.requires_grad for block in self.blocks]

    def restore(self, sizes: list[int], frozen: list[bool], device: torch.device) -> None:
        """Make blocks of the given sizes, ready for `load_state_dict`."""
        self.blocks = nn.ParameterList(
            nn.Parameter(torch.zeros(n, self.width, device=device), requires_grad=not f)
            for n, f in zip(sizes, frozen, strict=True)
        )

    def forward(self) -> Float[Tensor, "M Q"]:
        """Return all keys, in the order of the slots."""
        blocks = list(self.blocks)
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)
