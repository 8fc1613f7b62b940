"""PromptPool: the values of the prompts, in blocks; it knows no keys and no model.

A block is what one call of `grow` adds, and is one `nn.Parameter` of its own. A frozen block has
`requires_grad=False` and no gradient, so no optimiser, no weight decay and no momentum can move
it: freezing is structural, not a masked gradient.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cpool.blocks import Plan, block_list, leading, read_rows, rebuild, share_counts, starts_of
from cpool.errors import PoolError
from cpool.initialisers import Initialiser, uniform
from cpool.selection import Selection
from cpool.settings import is_whole

__all__ = ["PromptPool", "Slot"]


@dataclass(frozen=True)
class Slot:
    """Where a slot comes from.

    Attributes:
        id: its number, for ever; its place in the pool too, unless slots were evicted.
        name: what people call it.
        task: the task it was made for, or None when all tasks share it.
        created: time of creation, ISO 8601, UTC.
        trained_steps: optimiser steps in which a training sample used it.
        enabled: a disabled slot is never chosen.
        parent: the id of the slot it was copied from, or None.
        parents: the ids of the slots that it replaces, if eviction combined some.
        length: its prompt tokens, where they are fewer than the pool's.
    """

    id: int
    name: str
    task: int | None
    created: str
    trained_steps: int = 0
    enabled: bool = True
    parent: int | None = None
    parents: tuple[int, ...] = ()
    length: int | None = None


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

    # Whether a sum of slots is a slot (eviction may join some), and a slot may start as another.
    combines: ClassVar[bool] = True
    copies: ClassVar[bool] = True
    # Whether a slot may have fewer tokens than the pool.
    shortens: ClassVar[bool] = True
    # Whether the slots of a task are all that it has trained here, and nothing else moves them.
    apart: ClassVar[bool] = True
    # Whether some slot has fewer than P tokens.
    ragged: bool = False

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
        self._starts: list[int] = []
        self._next = 0

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
        """Add a block of `n` slots and return their places in the pool.

        Args:
            n: how many slots, at least 1.
            init: how they start; the pool's own initialiser by default.
            task: the task they are made for; None when all tasks share them.
            name: their name; a number is appended when n > 1.
            parent: the place of the slot that they were copied from; they are as long as it.
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
        values = values.detach().to(device=device, dtype=dtype)
        source = None if parent is None else self._slots[parent]
        if source is not None and source.length is not None:
            values = values.clone()
            values[:, :, source.length :] = 0
        self.blocks.append(nn.Parameter(values))
        self._starts.append(start)
        self.trained_steps = torch.cat([self.trained_steps, self.trained_steps.new_zeros(n)])
        self.enabled = torch.cat([self.enabled, self.enabled.new_ones(n)])
        base = name or ("shared" if task is None else f"task{task}")
        for i in range(n):
            label = base if n == 1 else f"{base}.{i}"
            slot = Slot(self._next + i, label, task, _now())
            if source is not None:
                slot = replace(slot, parent=source.id, length=source.length)
            self._slots.append(slot)
        self._next += n
        self.ragged |= source is not None and source.length is not None
        return range(start, start + n)

    @torch.no_grad()
    def start_from(self, slot: int, source: int) -> None:
        """Make a slot that still trains a copy of another, which is its parent from now on.

        Args:
            slot: its place in the pool.
            source: the place of the other.

        Raises:
            PoolError: no such slots, one that is frozen, or a pool whose slots are not copied.
        """
        if not self.copies:
            raise self.cannot_copy()
        slot, source = self.check_slot(slot), self.check_slot(source)
        # Rows of blocks, not values: some pools make values of what their blocks hold.
        row = read_rows(self.blocks, self._starts, torch.tensor(source))
        self._training_row(slot).copy_(row)
        parent = self._slots[source]
        self._slots[slot] = replace(self._slots[slot], parent=parent.id, length=parent.length)
        self._look_at_lengths()

    @torch.no_grad()
    def shorten(self, slot: int, length: int) -> None:
        """Leave a slot that still trains its first tokens alone; the others are never read again.

        So slots of different length stand in one pool: each row of a batch has the tokens of its
        own slots, and gets what it gets alone. Slots whose weighted sum is taken, and prompts that
        are cut in halves or made inside a pass, cannot be of different length.

        Args:
            slot: its place in the pool.
            length: from 1 to what it has.

        Raises:
            PoolError: no such slot, one that is frozen, another length, or a pool whose slots are
                of one length.

        >>> pool = PromptPool(sites=1, length=5, width=8)
        >>> pool.grow(2), pool.shorten(1, 3), pool.lengths
        (range(0, 2), None, (5, 3))
        """
        slot = self.check_slot(slot)
        now = self.length_of(slot)
        if not self.shortens:
            raise PoolError(
                expected="a pool whose slots may be of different length",
                got=f"{type(self).__name__}, whose slots are made otherwise",
                remedy="Use PromptPool, or slots of one length.",
            )
        if not is_whole(length) or not 1 <= length <= now:
            raise PoolError(
                expected=f"a length from 1 to {now}, the tokens that the slot has",
                got=repr(length),
                remedy="Make a pool with a larger length; its slots can be shortened.",
            )
        row = self._training_row(slot)
        if length < now:
            row[:, length:] = 0
            self._slots[slot] = replace(self._slots[slot], length=length)
            self.ragged = True

    def _look_at_lengths(self) -> None:
        # Asked at every pass, of pools with a million slots too, so it is kept.
        self.ragged = any(slot.length is not None for slot in self._slots)

    def _training_row(self, slot: int) -> Tensor:
        """Return the row of its block in which a slot lies, or raise where it is frozen."""
        number = bisect_right(self._starts, slot) - 1
        block: Tensor = self.blocks[number]
        if not block.requires_grad:
            raise PoolError(
                expected="a slot that still trains",
                got=f"slot {slot}, which is frozen",
                remedy="Change slots of the newest block, before its task ends.",
            )
        return block[slot - self._starts[number]]

    def length_of(self, slot: int) -> int:
        """Return how many tokens a slot has, at most P."""
        own = self._slots[self.check_slot(slot)].length
        return self.length if own is None else own

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens of each slot, at most P."""
        return tuple(self.length if s.length is None else s.length for s in self._slots)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest slot."""
        return max(self.lengths) if self.ragged else self.length

    def real(self, index: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape P"] | None:
        """Return which tokens of the slots are there; None where all slots have P of them."""
        if not self.ragged:
            return None
        asked, place = torch.unique(index, return_inverse=True)
        lengths = [self.length_of(slot) for slot in asked.tolist()]
        chosen = torch.tensor(lengths, device=index.device)[place]
        return torch.arange(self.length, device=index.device) < chosen[..., None]

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
        blocks = tuple(block_list(self.blocks))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def read(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape S P W"]:
        """Read slots by number; the cost is that of the slots read, not of the pool."""
        if not self._slots:
            return self.values()  # raises
        return read_rows(self.blocks, self._starts, index)

    def gather(self, selection: Selection) -> Float[Tensor, "B S N W"]:
        """Read the chosen slots, at the cost of what is chosen.

        Without weights the K slots are concatenated, N = K·P; with weights they are summed,
        N = P. A sum over most of the pool is one matrix product over all slots, so that no
        [B K S P W] tensor is made. Where every query gets the same slots, what is returned is one
        row expanded: one read, and whoever computes with it can see it. With gradients that is so
        only where the index is one row expanded itself, as when the task is told.
        """
        batch, chosen = selection.index.shape
        if selection.weight is None:
            if batch > 1 and _one_choice(selection.index):
                one = self.gather(selection._replace(index=selection.index[:1]))
                return one.expand(batch, -1, -1, -1)
            read = self.read(selection.index)  # [B K S P W]
            return read.transpose(1, 2).reshape(batch, self.sites, chosen * self.length, self.width)
        mixed = self._summed(selection)
        return mixed[:, :, : self._one_length()] if self.ragged else mixed

    def _summed(self, selection: Selection) -> Float[Tensor, "B S P W"]:
        assert selection.weight is not None
        batch, chosen = selection.index.shape
        if 2 * chosen < len(self):
            few = self.read(selection.index).flatten(2)
            mixed = (selection.weight.to(few.dtype).unsqueeze(1) @ few).squeeze(1)
            return mixed.view(batch, self.sites, self.length, self.width)
        values = self.values()
        dense = selection.weight.new_zeros(batch, len(self._slots))
        dense = dense.scatter_add(1, selection.index, selection.weight)
        mixed = dense.to(values.dtype) @ values.flatten(1)
        return mixed.view(batch, self.sites, self.length, self.width)

    def _one_length(self) -> int:
        """Return how long all slots are, or raise where they differ."""
        lengths = set(self.lengths)
        if len(lengths) > 1:
            raise self.different_lengths("a weighted sum of them")
        return lengths.pop()

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

    def check_plan(self, plan: Plan) -> None:
        """Refuse a plan that `recombine` cannot follow.

        Raises:
            PoolError: as `recombine`.
        """
        joins = any(list(parts.values()) != [1.0] for block in plan for parts in block)
        if joins and not self.combines:
            raise self.cannot_combine()
        lengths = self.lengths if self.ragged else (self.length,) * len(self)
        if any(len({lengths[i] for i in parts}) > 1 for block in plan for parts in block):
            raise self.different_lengths("a plan that joins some")

    def recombine(self, plan: Plan) -> None:
        """Make all slots anew by a plan of `cpool.blocks`; `evict` writes one.

        Slots that the plan copies stay as they are, with their ids; a combined one gets a new id
        and names its parents. What no new slot is made of is lost.

        Raises:
            PoolError: a plan that joins slots of different length, or of a pool whose slots cannot
                be added.
        """
        self.check_plan(plan)
        steps, rows = self.trained_steps, [parts for block in plan for parts in block]
        places = leading(plan)
        shared = share_counts(steps.double(), plan)
        trained = torch.stack([(steps[list(parts)] > 0).any() for parts in rows])
        # A share below one step still says that the slot was trained.
        self.trained_steps = torch.maximum(shared.round().to(steps.dtype), trained.to(steps.dtype))
        self.enabled = torch.stack([self.enabled[list(parts)].any() for parts in rows])
        made = []
        for place, parts in zip(places, rows, strict=True):
            slot = self._slots[place]
            if list(parts.values()) != [1.0]:
                parents = tuple(sorted(self._slots[i].id for i in parts))
                name = f"{slot.name}+"
                slot = Slot(
                    self._next, name, slot.task, _now(), parents=parents, length=slot.length
                )
                self._next += 1
            made.append(slot)
        self._slots = made
        self._look_at_lengths()
        self.blocks = rebuild(self.blocks, plan)
        self._starts = starts_of(len(block) for block in plan)

    def clear(self) -> None:
        """Become a pool without slots."""
        self.blocks = nn.ParameterList()
        self._slots, self._starts, self._next, self.ragged = [], [], 0, False
        self.trained_steps, self.enabled = self.trained_steps[:0].clone(), self.enabled[:0].clone()

    def join(self, other: "PromptPool", tasks: int) -> None:
        """Take over the slots of another pool, frozen, after one's own.

        Args:
            other: of the same shape.
            tasks: how many tasks come before those of `other`.

        Raises:
            PoolError: another shape, or a pool in which tasks share more than slots.
        """
        self._check_apart()
        shapes = [(pool.sites, pool.length, pool.width) for pool in (self, other)]
        if shapes[0] != shapes[1]:
            raise PoolError(
                expected=f"slots of {shapes[0]} (sites, tokens, width)",
                got=f"{shapes[1]}",
                remedy="Join pools that were built alike.",
            )
        first = self._next

        def moved(slot: Slot) -> Slot:
            task = None if slot.task is None else slot.task + tasks
            return replace(
                slot,
                id=slot.id + first,
                name=_renamed(slot, task),
                task=task,
                parent=None if slot.parent is None else slot.parent + first,
                parents=tuple(parent + first for parent in slot.parents),
            )

        device, dtype = self._device_and_dtype()
        start = len(self._slots)
        for block, place in zip(block_list(other.blocks), other._starts, strict=True):
            values = block.detach().to(device=device, dtype=dtype, copy=True)
            self.blocks.append(nn.Parameter(values, requires_grad=False))
            self._starts.append(start + place)
        self._slots += [moved(slot) for slot in other._slots]
        self.ragged |= other.ragged
        self._next = first + other._next
        self.trained_steps = torch.cat([self.trained_steps, other.trained_steps.to(device)])
        self.enabled = torch.cat([self.enabled, other.enabled.to(device)])

    def forget(self, task: int) -> list[str]:
        """Drop the slots of a task, let later tasks move up, and return their names.

        Raises:
            PoolError: a pool in which tasks share more than slots.
        """
        self._check_apart()
        gone = [slot.name for slot in self._slots if slot.task == task]
        sizes = [len(block) for block in self.blocks]
        rows = [range(start, start + size) for start, size in zip(self._starts, sizes, strict=True)]
        kept = [[i for i in block if self._slots[i].task != task] for block in rows]
        plan = [[{i: 1.0} for i in block] for block in kept if block]
        if plan:
            self.recombine(plan)
        else:
            self.clear()
        later = [
            None if s.task is None else s.task - 1 if s.task > task else s.task for s in self._slots
        ]
        self._slots = [
            replace(slot, name=_renamed(slot, new), task=new)
            for slot, new in zip(self._slots, later, strict=True)
        ]
        return gone

    def _check_apart(self) -> None:
        if not self.apart:
            raise PoolError(
                expected="a pool whose slots stand for themselves",
                got=f"{type(self).__name__}, of which tasks share a part",
                remedy="Learn the tasks in sequence instead, with those that shall be known.",
            )

    def cannot_copy(self) -> PoolError:
        """Build the error for slots that cannot start as others."""
        return PoolError(
            expected="a pool whose slots may be copies of others",
            got=f"{type(self).__name__}, whose new slots are made otherwise",
            remedy="Use PromptPool, or let new slots start anew.",
        )

    def cannot_combine(self) -> PoolError:
        """Build the error for slots whose sum would be no slot."""
        return PoolError(
            expected="slots that are kept or dropped as they are",
            got=f"a plan that joins slots of a {type(self).__name__}, whose sum would be no slot",
            remedy='Evict by "usage".',
        )

    def different_lengths(self, asked: str) -> PoolError:
        """Build the error for slots whose sum would be no slot, since they are not as long."""
        return PoolError(
            expected="slots of one length, to be added",
            got=f"{asked}, of lengths {sorted(set(self.lengths))}",
            remedy='Choose slots instead of summing them, evict by "usage", or use one length.',
        )

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this pool again (JSON)."""
        return {
            "shape": [self.sites, self.length, self.width],
            "blocks": [len(block) for block in self.blocks],
            "frozen": [not block.requires_grad for block in self.blocks],
            "slots": [_plain(slot) for slot in self.slots],
            "next": self._next,
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
        self._starts = starts_of(sizes)
        self._slots = [
            Slot(**{**slot, "parents": tuple(slot.get("parents", ()))}) for slot in layout["slots"]
        ]
        self._look_at_lengths()
        # Checkpoints of pools that knew no eviction have neither parents nor a next id.
        self._next = layout.get("next", len(self._slots))
        self.trained_steps = self.trained_steps.new_zeros(len(self))
        self.enabled = self.enabled.new_zeros(len(self))

    def _device_and_dtype(self) -> tuple[torch.device, torch.dtype]:
        if len(self.blocks):
            return self.blocks[0].device, self.blocks[0].dtype
        return self.trained_steps.device, torch.get_default_dtype()


def _one_choice(index: Int[Tensor, "B K"]) -> bool:
    """Tell whether all queries get the same slots; values are compared where nothing trains.

    A router sends most batches of one task to one slot. A comparison waits for a GPU, which a step
    of training should not: there a task tells its slot anyway, by one row.
    """
    if index.stride(0) == 0:
        return True
    return not torch.is_grad_enabled() and bool((index == index[:1]).all())


def _renamed(slot: Slot, task: int | None) -> str:
    """Return the name that a slot has when its task has another number."""
    default = f"task{slot.task}"
    if slot.name != default and not slot.name.startswith(f"{default}."):
        return slot.name  # somebody called it so
    return f"task{task}{slot.name.removeprefix(default)}"


def _plain(slot: Slot) -> dict[str, Any]:
    """Return a slot as JSON; a length only where it says something, for older readers."""
    made = {**asdict(slot), "parents": list(slot.parents)}
    return {key: value for key, value in made.items() if key != "length" or value is not None}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
