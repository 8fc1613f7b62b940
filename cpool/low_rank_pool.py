"""LowRankPool: one prompt that tasks share, times a small matrix of each task's own."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpool.blocks import block_list, read_rows
from cpool.errors import PoolError
from cpool.initialisers import Initialiser, constant
from cpool.pool import PromptPool

__all__ = ["LowRankPool"]


class LowRankPool(PromptPool):
    """Slot k is `P* ⊙ (u_k v_kᵀ)`: P* [S P W] is shared, u_k [P r] and v_k [r W] are its own.

    Wang et al., *Multitask prompt tuning*, ICLR 2023. Blocks hold u_kᵀ and v_k side by side,
    [n S r P+W], r (P + W) numbers a site in place of P · W, and freeze as always. P* trains until
    `shared_blocks` blocks are frozen and then never again, so that from there on the slots of
    frozen blocks are bit-identical; while it trains they move with it.

    The first slots have `u v = 1` and are P* itself. Their further ranks start from u in N(0, 1)
    and v = 0, which add nothing at first but have a gradient. Later slots start from the mean of
    all older u and v.

    Args:
        sites, length, width: S, P and W, as for `PromptPool`.
        init: how P* starts, when the first slots are grown.
        rank: r.
        shared_blocks: how many blocks train P*.

    >>> pool = LowRankPool(1, length=5, width=8, rank=2)
    >>> pool.grow(1, task=0), pool.blocks[0].shape, torch.equal(pool.values()[0], pool.shared)
    (range(0, 1), torch.Size([1, 1, 2, 13]), True)
    >>> pool.freeze(0)
    >>> pool.shared.requires_grad
    False
    """

    combines: ClassVar[bool] = False  # a sum of factors would not be the sum of their prompts
    apart: ClassVar[bool] = False  # P* is everybody's
    shortens: ClassVar[bool] = False

    def __init__(
        self,
        sites: int,
        length: int,
        width: int,
        init: Initialiser | None = None,
        *,
        rank: int = 1,
        shared_blocks: int = 1,
    ) -> None:
        super().__init__(sites, length, width, init)
        if min(rank, shared_blocks) < 1:
            raise PoolError(
                expected="rank and shared_blocks of at least 1",
                got=f"rank={rank}, shared_blocks={shared_blocks}",
                remedy="Let at least the first block train the shared prompt.",
            )
        self.rank, self.shared_blocks = rank, shared_blocks
        self._trained = 0  # blocks that have been frozen; some may be evicted by now
        self.shared = nn.Parameter(torch.zeros(sites, length, width))

    def grow(
        self,
        n: int,
        init: Initialiser | None = None,
        *,
        task: int | None = None,
        name: str | None = None,
        parent: int | None = None,
    ) -> range:
        """Add a block of `n` slots; `init` makes their u and v, [n S r P+W]."""
        older: list[Tensor] = list(block_list(self.blocks))
        slots = super().grow(n, constant(0.0), task=task, name=name, parent=parent)
        shape = (n, self.sites, self.rank, self.length + self.width)
        with torch.no_grad():
            if not older:
                self.shared.copy_(self.init((1, *self.shared.shape))[0])
            if init is not None:
                made = init(shape)
            elif older:
                made = torch.cat(older).mean(dim=0).expand(shape).clone()
            else:
                made = self._ones(shape)
        self.blocks[-1] = nn.Parameter(made.to(self.shared))
        return slots

    def _ones(self, shape: tuple[int, int, int, int]) -> Float[Tensor, "n S r u"]:
        factors = torch.zeros(shape)
        factors[:, :, 0] = 1.0
        factors[:, :, 1:, : self.length].normal_()
        return factors

    def freeze(self, block: int) -> None:
        """Freeze one block for ever, and P* with the last one that trains it."""
        trains = 0 <= block < len(self.blocks) and self.blocks[block].requires_grad
        super().freeze(block)
        self._trained += int(trains)
        if self._trained >= self.shared_blocks:
            self.shared.requires_grad_(False).grad = None

    def _prompts(self, factors: Float[Tensor, "*shape S r u"]) -> Float[Tensor, "*shape S P W"]:
        left, right = factors[..., : self.length], factors[..., self.length :]
        prompts: Tensor = self.shared * (left.transpose(-1, -2) @ right)
        return prompts

    def values(self) -> Float[Tensor, "M S P W"]:
        """Return the prompts of all slots."""
        if not len(self):
            return super().values()  # raises
        return self._prompts(torch.cat(list(block_list(self.blocks))))

    def read(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape S P W"]:
        """Return the prompts of the slots of these numbers."""
        if not len(self):
            return super().values()  # raises
        return self._prompts(read_rows(self.blocks, self._starts, index))

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this pool again (JSON)."""
        frozen = not self.shared.requires_grad
        return {**super().layout(), "shared_frozen": frozen, "trained": self._trained}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the blocks of a `layout`, ready for `load_state_dict`."""
        super().restore(layout)
        shape = (self.sites, self.rank, self.length + self.width)
        for number, block in enumerate(block_list(self.blocks)):
            zeros = self.shared.new_zeros(len(block), *shape)
            self.blocks[number] = nn.Parameter(zeros, requires_grad=block.requires_grad)
        self.shared.requires_grad_(not layout["shared_frozen"])
        self._trained = layout["trained"]
