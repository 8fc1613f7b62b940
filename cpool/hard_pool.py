"""HardPool: prompts that are read as the words nearest to them, and so are words of the model."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.blocks import block_list
from cpool.errors import PoolError
from cpool.initialisers import Initialiser
from cpool.pool import PromptPool

__all__ = ["HardPool"]


class HardPool(PromptPool):
    r"""While a slot trains its token i is `argmax_{e ∈ E} cos(p_i, e)`, and freezing keeps that.

    PEZ (Wen et al., *Hard prompts made easy*, NeurIPS 2023): the gradient is taken at the words and
    applied to the continuous p, which is what a block holds and an optimiser moves. When a block is
    frozen its words take the place of p.

    Args:
        length, width, init: as for `PromptPool`; there is one site, the embedding.
        table: gives the token embeddings E, of the model that reads the prompts.
        banned: ids that are never taken, such as special tokens.

    >>> table = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    >>> pool = HardPool(1, 2, lambda shape: torch.tensor([0.9, 0.8]).expand(shape), lambda: table)
    >>> pool.grow(1), pool.values().flatten().tolist(), pool.words(0).tolist()
    (range(0, 1), [1.0, 0.0], [0])
    """

    def __init__(
        self,
        length: int,
        width: int,
        init: Initialiser,
        table: Callable[[], Float[Tensor, "V W"]],
        *,
        banned: Sequence[int] = (),
    ) -> None:
        super().__init__(1, length, width, init)
        self._table, self.banned = table, tuple(banned)
        size, wide = table().shape
        if wide != width or len(set(self.banned)) >= size:
            raise PoolError(
                expected=f"a table of words of width {width}, not all of them banned",
                got=f"{size} of width {wide}, {len(set(self.banned))} banned",
                remedy="Pass the token embeddings of the model.",
            )

    @torch.no_grad()
    def _nearest(self, rows: Float[Tensor, "*shape W"]) -> Float[Tensor, "*shape W"]:
        """Return the words of largest cosine; the length of a row does not matter."""
        table = self._table().to(rows)
        likeness = rows @ table.T / table.norm(dim=1).clamp(min=1e-12)
        likeness[..., list(self.banned)] = -torch.inf
        return F.embedding(likeness.argmax(dim=-1), table)

    def _hard(self, number: int) -> Tensor:
        """Return the value of a block: words, with the gradient of what they stand for."""
        own = block_list(self.blocks)[number]
        if not own.requires_grad:
            return own
        # The difference is exactly 0, where p + (proj(p) − p) would be rounded.
        return self._nearest(own) + (own - own.detach())

    def freeze(self, block: int) -> None:
        """Keep the words of a block for ever."""
        if 0 <= block < len(self.blocks) and self.blocks[block].requires_grad:
            with torch.no_grad():
                self.blocks[block].copy_(self._nearest(self.blocks[block]))
        super().freeze(block)

    def values(self) -> Float[Tensor, "M S P W"]:
        """Return the values of all slots."""
        if not len(self):
            return super().values()  # raises
        return torch.cat([self._hard(number) for number in range(len(self.blocks))])

    def read(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape S P W"]:
        """Read slots by number."""
        if all(not block.requires_grad for block in block_list(self.blocks)):
            return super().read(index)
        return self.values()[index]

    @torch.no_grad()
    def words(self, slot: int) -> Int[Tensor, " P"]:
        """Return the ids of the words that a slot is read as."""
        rows = self.values()[self.check_slot(slot), 0]
        table = self._table().to(rows)
        # They are rows of the table, so that the distance is exactly 0.
        return torch.stack([(table - row).abs().amax(dim=1).argmin() for row in rows])
