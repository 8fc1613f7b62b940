"""ThroughPool: prompts that train through a small network, which is thrown away afterwards."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpool.blocks import block_list
from cpool.errors import PoolError
from cpool.initialisers import Initialiser, constant, normal
from cpool.pool import PromptPool

__all__ = ["ThroughPool"]


class ThroughPool(PromptPool):
    """While a slot trains, its token i is `W₂ tanh(W₁ e_i + b₁) + b₂` at all sites; then a value.

    Li and Liang, *Prefix-tuning*, ACL 2021, section 4.3. The newest block holds the embeddings e
    [n P W], one for each token, and `through` is the network, W → inner → S·W, which the slots of
    the block share. When the block is frozen, what the network gives takes the place of e, and the
    network is thrown away: later blocks have one of their own. e starts from N(0, 1) and the
    network as torch makes it.

    Args:
        sites, length, width: S, P and W, as for `PromptPool`.
        inner: rows of W₁.

    >>> pool = ThroughPool(6, length=4, width=8, inner=5)
    >>> pool.grow(1, task=0), pool.blocks[0].shape, pool.values().shape
    (range(0, 1), torch.Size([1, 4, 8]), torch.Size([1, 6, 4, 8]))
    >>> pool.freeze(0)
    >>> pool.blocks[0].shape, pool.through
    (torch.Size([1, 6, 4, 8]), None)
    """

    copies: ClassVar[bool] = False  # no embeddings make the values of another slot
    shortens: ClassVar[bool] = False

    def __init__(self, sites: int, length: int, width: int, *, inner: int) -> None:
        super().__init__(sites, length, width)
        if inner < 1:
            raise PoolError(
                expected="inner of at least 1",
                got=str(inner),
                remedy="Use PromptPool to train values without a network.",
            )
        self.inner = inner
        self.through: nn.Sequential | None = None

    def grow(
        self,
        n: int,
        init: Initialiser | None = None,
        *,
        task: int | None = None,
        name: str | None = None,
        parent: int | None = None,
    ) -> range:
        """Add a block of `n` slots and its network; `init` makes the embeddings, [n 1 P W].

        Raises:
            PoolError: the newest block still has its network.
        """
        if self.through is not None:
            raise PoolError(
                expected="a pool whose blocks are frozen",
                got=f"block {len(self.blocks) - 1}, which trains through its network",
                remedy="Freeze it first: one network at a time.",
            )
        slots = super().grow(n, constant(0.0), task=task, name=name, parent=parent)
        like = self.blocks[-1]
        made = (init or normal(1.0))((n, 1, self.length, self.width))
        self._open(made[:, 0].to(like))
        return slots

    def _open(self, embeddings: Float[Tensor, "n P W"]) -> None:
        """Let the newest block hold embeddings, and give it a network."""
        self.blocks[-1] = nn.Parameter(embeddings)
        first = nn.Linear(self.width, self.inner)
        second = nn.Linear(self.inner, self.sites * self.width)
        self.through = nn.Sequential(first, nn.Tanh(), second).to(embeddings)

    def freeze(self, block: int) -> None:
        """Freeze one block for ever; the newest gets its values, and loses its network."""
        if self.through is not None and block == len(self.blocks) - 1:
            values = self._block(block).detach().clone()
            self.blocks[block] = nn.Parameter(values, requires_grad=False)
            self.through = None
        super().freeze(block)

    def _block(self, number: int) -> Float[Tensor, "n S P W"]:
        """Return the values of a block."""
        block: Tensor = block_list(self.blocks)[number]
        if self.through is None or number < len(self.blocks) - 1:
            return block
        made: Tensor = self.through(block)
        return made.view(*block.shape[:2], self.sites, self.width).transpose(1, 2)

    def values(self) -> Float[Tensor, "M S P W"]:
        """Return the values of all slots."""
        if not len(self):
            return super().values()  # raises
        return torch.cat([self._block(number) for number in range(len(self.blocks))])

    def read(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape S P W"]:
        """Read slots by number."""
        if self.through is None:
            return super().read(index)
        first = self._starts[-1]
        if bool((index < first).any()):
            return self.values()[index]
        return self._block(len(self.blocks) - 1)[index - first]

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this pool again (JSON)."""
        return {**super().layout(), "through": self.through is not None}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the blocks of a `layout`, ready for `load_state_dict`."""
        super().restore(layout)
        self.through = None
        if layout["through"]:
            newest = self.blocks[-1]
            self._open(newest.new_zeros(len(newest), self.length, self.width))
