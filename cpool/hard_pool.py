"""HardPool: prompts that are read as the words nearest to them, and so are words of the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.blocks import Plan, block_list
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

    combines: ClassVar[bool] = False
    shortens: ClassVar[bool] = False

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
        self._kept: list[bool] = []  # of each block: it holds words, not what they stand for
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
        # Mixed precision would train on other words than freezing keeps.
        with torch.autocast(rows.device.type, enabled=False):
            likeness = rows @ table.T / table.norm(dim=1).clamp(min=1e-12)
        likeness[..., list(self.banned)] = -torch.inf
        return F.embedding(likeness.argmax(dim=-1), table)

    def _hard(self, number: int) -> Tensor:
        """Return the value of a block: words, with the gradient of what they stand for."""
        own: Tensor = block_list(self.blocks)[number]
        if self._kept[number]:
            return own
        # The difference is exactly 0, where p + (proj(p) − p) would be rounded.
        return self._nearest(own) + (own - own.detach())

    def grow(
        self,
        n: int,
        init: Initialiser | None = None,
        *,
        task: int | None = None,
        name: str | None = None,
        parent: int | None = None,
    ) -> range:
        """Add a block of `n` slots, whose words are those nearest to where it starts."""
        slots = super().grow(n, init, task=task, name=name, parent=parent)
        self._kept.append(False)
        return slots

    def freeze(self, block: int) -> None:
        """Keep the words of a block for ever."""
        if 0 <= block < len(self.blocks) and not self._kept[block]:
            with torch.no_grad():
                self.blocks[block].copy_(self._nearest(self.blocks[block]))
            self._kept[block] = True
        super().freeze(block)

    def recombine(self, plan: Plan) -> None:
        """Keep or drop slots; a mean of words is no word."""
        owner = [kept for kept, rows in zip(self._kept, self.blocks, strict=True) for _ in rows]
        super().recombine(plan)
        self._kept = [all(owner[next(iter(parts))] for parts in block) for block in plan]

    def clear(self) -> None:
        """Become a pool without slots."""
        super().clear()
        self._kept = []

    def join(self, other: PromptPool, tasks: int) -> None:
        """Take over the slots of another pool, whose blocks are frozen."""
        assert isinstance(other, HardPool)
        super().join(other, tasks)
        self._kept += [True] * len(other.blocks)

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this pool again (JSON)."""
        return {**super().layout(), "words": list(self._kept)}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the blocks of a `layout`, ready for `load_state_dict`."""
        super().restore(layout)
        self._kept = list(layout["words"])

    def values(self) -> Float[Tensor, "M S P W"]:
        """Return the values of all slots."""
        if not len(self):
            return super().values()  # raises
        return torch.cat([self._hard(number) for number in range(len(self.blocks))])

    def read(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape S P W"]:
        """Read slots by number."""
        if all(self._kept):
            return super().read(index)
        return self.values()[index]

    @torch.no_grad()
    def words(self, slot: int) -> Int[Tensor, " P"]:
        """Return the ids of the words that a slot is read as."""
        rows = self.values()[self.check_slot(slot), 0]
        table = self._table().to(rows)
        # They are rows of the table, so that the distance is exactly 0.
        return torch.stack([(table - row).abs().amax(dim=1).argmin() for row in rows])
