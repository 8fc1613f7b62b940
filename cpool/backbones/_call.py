"""What one forward carries besides its inputs, readable from hooks and from the attention function.

A context variable, not an attribute of the model: two threads, or two prompted models over one
backbone, each see their own call, and a call that ends leaves nothing behind.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["CALL", "Call", "Prefix", "Seen", "active"]


class Prefix(NamedTuple):
    """Keys and values that one layer gets in front of its own, each [B H N E].

    A live prefix is made when its layer runs: `make` gets the hidden state that enters the layer.
    `real` [B N] is False for padding, where rows have prefixes of different length. `maker` is the
    attention module that makes the bias of this layer, where the model looks at distances.
    """

    layer: int
    key: Tensor
    value: Tensor
    make: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    real: Tensor | None = None
    maker: nn.Module | None = None


class Seen(NamedTuple):
    """What the recording of a model's attention saw at one call of an attention module."""

    module: nn.Module
    heads: int
    head_dim: int


@dataclass(eq=False)
class Call:
    """One forward: prefixes by attention module, tokens for the embedding, and what was used.

    `depths` [T] are the positions of a decoder's tokens, where they are not those in the row;
    `past` is how many the cache of an encoder–decoder's decoder holds.
    """

    prefixes: dict[nn.Module, list[Prefix]] = field(default_factory=dict)
    tokens: Tensor | None = None
    turns: dict[nn.Module, int] = field(default_factory=dict)
    consumed: set[int] = field(default_factory=set)
    insert_at: int = 0
    inserted: bool = False
    extended: set[nn.Module] = field(default_factory=set)
    states: dict[int, Tensor] = field(default_factory=dict)
    depths: Tensor | None = None
    past: int = 0
    recorder: list[Seen] | None = None
    outer: "Call | None" = None
    ended: bool = False

    def take(self, module: nn.Module) -> Prefix | None:
        """Return the prefix of this module for its next turn, and note that it was used."""
        prefixes = self.prefixes.get(module)
        if prefixes is None:
            return None
        # Some models (ALBERT) run one module as several layers: the n-th turn is the n-th layer.
        turn = self.turns.get(module, 0)
        self.turns[module] = turn + 1
        prefix = prefixes[turn % len(prefixes)]
        self.consumed.add(prefix.layer)
        if prefix.make is not None:
            key, value = prefix.make(self.states[prefix.layer])
            prefix = prefix._replace(key=key, value=value)
        return prefix if prefix.key.shape[2] else None


CALL: ContextVar[Call | None] = ContextVar("cpool_call", default=None)


@contextmanager
def active(call: Call) -> Iterator[Call]:
    """Make `call` the current one; afterwards the call around it, if that has not ended before."""
    call.outer = CALL.get()
    CALL.set(call)
    try:
        yield call
    finally:
        # Not ContextVar.reset: contexts may end in another order than they began.
        call.ended = True
        current = CALL.get()
        while current is not None and current.ended:
            current = current.outer
        CALL.set(current)
