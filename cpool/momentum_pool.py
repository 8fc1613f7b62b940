"""MomentumPool: a slot is its own prompt with a little of the mean of all older ones in it."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.blocks import block_list
from cpool.errors import PoolError
from cpool.initialisers import Initialiser
from cpool.pool import PromptPool

__all__ = ["MomentumPool"]


class MomentumPool(PromptPool):
    """While slot t trains its value is `(1 − α) p_t + α · mean_{s<t} p_s`, which freezing keeps.

    Wang et al., *HiDe-Prompt*, NeurIPS 2023, and its code: older prompts get no gradient. When a
    block is frozen the mixed value takes the place of p_t, so that what was trained is what is
    used, and later slots mix with it. The slots of one block do not mix with one another.

    Args:
        sites, length, width, init: as for `PromptPool`.
        momentum: α in [0, 1).

    >>> from cpool.initialisers import constant
    >>> pool = MomentumPool(1, 1, 1, momentum=0.25)
    >>> for value in (4.0, 0.0, 2.0): pool.freeze_all(); slots = pool.grow(1, constant(value))
    >>> pool.values().flatten().tolist()  # 0 + 4/4; then 3/4 · 2 + 1/4 · (4 + 1)/2
    [4.0, 1.0, 2.125]
    """

    apart: ClassVar[bool] = False  # a slot has older ones in it
    shortens: ClassVar[bool] = False

    def __init__(
        self,
        sites: int,
        length: int,
        width: int,
        init: Initialiser | None = None,
        *,
        momentum: float = 0.01,
    ) -> None:
        super().__init__(sites, length, width, init)
        if not 0 <= momentum < 1:
            raise PoolError(
                expected="a momentum from 0 to below 1",
                got=str(momentum),
                remedy="0 gives every slot its own prompt alone.",
            )
        self.momentum = momentum

    def _mixed(self, number: int) -> Tensor:
        """Return the value of a block."""
        blocks = block_list(self.blocks)
        own = blocks[number]
        if not number or not own.requires_grad or not self.momentum:
            return own
        older = torch.cat([block.detach() for block in blocks[:number]]).mean(dim=0)
        return (1 - self.momentum) * own + self.momentum * older

    def freeze(self, block: int) -> None:
        """Keep the mixed value of a block for ever."""
        if 0 < block < len(self.blocks) and self.blocks[block].requires_grad:
            with torch.no_grad():
                self.blocks[block].copy_(self._mixed(block))
        super().freeze(block)

    def values(self) -> Float[Tensor, "M S P W"]:
        """Return the values of all slots."""
        if not len(self):
            return super().values()  # raises
        return torch.cat([self._mixed(number) for number in range(len(self.blocks))])

    def read(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape S P W"]:
        """Read slots by number."""
        if all(not block.requires_grad for block in block_list(self.blocks)):
            return super().read(index)
        newest = len(self.blocks) - 1
        first = self._starts[newest]
        if bool((index < first).any()):
            return self.values()[index]
        return self._mixed(newest)[index - first]
