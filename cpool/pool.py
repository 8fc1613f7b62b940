"""PromptPool: the values of the prompts, in blocks; it knows no keys and no model.

A block is what one call of `grow` adds, and is one `nn.Parameter` of its own. A frozen block has
`requires_grad=False` and no gradient, so no optimiser, no weight decay and no momentum can move
it: freezing is structural, not a masked gradient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cpool.errors import PoolError
from cpool.initialisers import Initialiser, uniform
from cpool.selection import Selection

__all__ = ["PromptPool", "Slot"]


@dataclass(frozen=True)
class Slot:
    """Where a slot comes from.

    Attributes:
        id: its number in the pool, for ever.
        name: what people call it.
        task: the task it was made for, or None when all tasks share it.
        created: time of creation, ISO 8601, UTC.
        trained_steps: optimiser steps in which a training sample used it.
        enabled: a disabled slot is never chosen.
        parent: the slot it was copied from, or None.
    """

    id: int
    name: str
    task: int | None
    created: str
    trained_steps: int = 0
    enabled: bool = True
    parent: int | None = None


class PromptPool(nn.Module):
    """M slots of N = P prompt tokens at S sites of width W, grown block by block.

    Args:
        sites: S, 1 at the embedding, 2 per prefixed layer (key, then value).
        length: P, prompt tokens a slot.
        width: W, the hidden size, or kv-heads × head-dim for a prefix.
        init: how slots start unless `grow` is told otherwise.

    >>> pool = PromptPool(sites=1, length=5, width=8)
    >>> pool.grow(3), pool.grow(2, task=1)
    (range(0, 3), range(3, 5))
    >>> pool.freeze(0)
    >>> [block.requires_grad for block in pool.blocks]
    [False, True]
    """

    def __init__(
        self, sites: int, length: int, width: int, init: Initialiser | None = None
    ) -> None:
        super().__init__()
        if min(sites, length, width) < 1:
            raise PoolError(
                expected="sites, length and width of at least 1",
                got=f"sites={sites}, length={length}, width={width}",
                remedy="Give each prompt at least one token at one site.",
            )
        self.sites, self.length, self.width = sites, length, width
        self.init = init if init is not None else uniform()
        self.blocks = nn.ParameterList()
        self.trained_steps: Int[Tensor, " M"]
        self.enabled: Bool[Tensor, " M"]
        self.register_buffer("trained_steps", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("enabled", torch.zeros(0, dtype=torch.bool))
        self._slots: list[Slot] = []

    def __len__(self) -> int:
        """Return M, the number of slots."""
        return len(self._slots)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The provenance of every slot, as of now."""
        steps, enabled = self.trained_steps.tolist(), self.enabled.tolist()
        return tuple(
            replace(slot, trained_steps=steps[i], enabled=enabled[i])
            for i, slot in enumerate(self._slots)
        )

    def grow(
        self,
        n: int,
        init: Initialiser | None = None,
        *,
        task: int | None = None,
        name: str | None = None,
        parent: int | None = None,
    ) -> range:
        """Add a block of `n` slots and return their numbers.

        Args:
            n: how many slots, at least 1.
            init: how they start; the pool's own initialiser by default.
            task: the task they are made for; None when all tasks share them.
            name: their name; a number is appended when n > 1.
            parent: the slot that they were copied from.
        """
        if n < 1:
            raise PoolError(
                expected="to grow by at least 1 slot",
                got=str(n),
                remedy="A pool of 0 slots has nothing to choose from.",
            )
        shape = (n, self.sites, self.length, self.width)
        device, dtype = self._device_and_dtype()
        values = (init or self.init)(shape)
        if tuple(values.shape) != shape:
            raise PoolError(
                expected=f"an initialiser that returns {shape}",
                got=f"{tuple(values.shape)}",
                remedy="Return a tensor of the shape that the initialiser is called with.",
            )
        start = len(self._slots)
        self.blocks.append(nn.Parameter(values.detach().to(device=device, dtype=dtype)))
        self.trained_steps = torch.cat([self.trained_steps, self.trained_steps.new_zeros(n)])
        self.enabled = torch.cat([self.enabled, self.enabled.new_ones(n)])
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        base = name or ("shared" if task is None else f"task{task}")
        for i in range(start, start + n):
            label = base if n == 1 else f"{base}.{i - start}"
            self._slots.append(Slot(i, label, task, created, parent=parent))
        return range(start, start + n)

    def freeze(self, block: int) -> None:
        """Freeze one block for ever: bit-identical whatever the optimiser does."""
        if not 0 <= block < len(self.blocks):
            raise PoolError(
                expected=f"a block number below {len(self.blocks)}",
                got=str(block),
                remedy="Blocks are counted from 0 in the order they were grown.",
            )
        # An optimiser that still holds the block skips it only if it has no gradient at all.
        self.blocks[block].requires_grad_(False).grad = None

    def freeze_all(self) -> None:
        """Freeze every block that exists now."""
        for block in range(len(self.blocks)):
            self.freeze(block)

    def values(self) -> Float[Tensor, "M S P W"]:
        """Return the values of all slots, blocks joined in the order of growth."""
        if not self._slots:
            raise PoolError(
                expected="at least one slot",
                got="an empty pool",
                remedy="Call grow(n), or begin_task of the model, first.",
            )
        blocks = list(self.blocks)
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def gather(self, selection: Selection) -> Float[Tensor, "B S N W"]:
        """Read the chosen slots in one indexed read.

        Without weights the K slots are concatenated, N = K·P; with weights they are summed,
        N = P, as one matrix product over the slots, so no [B K S P W] tensor is made.
        """
        values = self.values()
        batch, chosen = selection.index.shape
        if selection.weight is None:
            read = values[selection.index]  # [B K S P W]
            return read.transpose(1, 2).reshape(batch, self.sites, chosen * self.length, self.width)
        dense = selection.weight.new_zeros(batch, len(self._slots))
        dense = dense.scatter_add(1, selection.index, selection.weight)
        mixed = dense.to(values.dtype) @ values.flatten(1)
        return mixed.view(batch, self.sites, self.length, self.width)

    def mark_trained(self, index: Int[Tensor, "B K"]) -> None:
        """Count one training step for each slot in `index`."""
        used = torch.zeros_like(self.trained_steps)
        used[index.reshape(-1)] = 1
        self.trained_steps += used

    def available(self, *, training: bool) -> Bool[Tensor, " M"]:
        """Return which slots may be chosen: enabled, and (outside training) trained."""
        return self.enabled.clone() if training else self.enabled & (self.trained_steps > 0)

    def enable(self, slot: int, enabled: bool = True) -> None:
        """Let a slot be chosen again, or (`enabled=False`) never more."""
        self.enabled[self.check_slot(slot)] = enabled

    def check_slot(self, slot: int) -> int:
        """Return `slot` as a number from 0, or raise PoolError when there is none."""
        if not -len(self) <= slot < len(self):
            raise PoolError(
                expected=f"a slot number below {len(self)}",
                got=str(slot),
                remedy="List the slots with `pool.slots` or `cpool inspect`.",
            )
        return slot % len(self)

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this pool again (JSON)."""
        return {
            "blocks": [len(block) for block in self.blocks],
            "frozen": [not block.requires_grad for block in self.blocks],
            "slots": [asdict(slot) for slot in self.slots],
        }

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the blocks of a `layout`, ready for `load_state_dict`."""
        self.blocks = nn.ParameterList()
        sizes: Sequence[int] = layout["blocks"]
        device, dtype = self._device_and_dtype()
        for size, frozen in zip(sizes, layout["frozen"], strict=True):
            values = torch.zeros(
                size, self.sites, self.length, self.width, device=device, dtype=dtype
            )
            self.blocks.append(nn.Parameter(values, requires_grad=not frozen))
        self._slots = [Slot(**slot) for slot in layout["slots"]]
        self.trained_steps = self.trained_steps.new_zeros(len(self))
        self.enabled = self.enabled.new_zeros(len(self))

    def _device_and_dtype(self) -> tuple[torch.device, torch.dtype]:
        if len(self.blocks):
            return self.blocks[0].device, self.blocks[0].dtype
        return self.trained_steps.device, torch.get_default_dtype()
