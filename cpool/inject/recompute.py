"""Recomputing: what a layer would keep for the backward pass is made again there, from its input.

Activation checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174). transformers has it
for models in training mode, which a frozen one never is; and a layer of theirs that is run again,
after its pass has ended, would find no prompts.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from cpool.backbones import Backbone
from cpool.backbones._call import CALL
from cpool.backbones._states import blocks_of, compiled
from cpool.errors import BackboneError
from cpool.inject.prefix import resumed

__all__ = ["check_recomputes", "recomputed"]

_LOCK = Lock()
_OPEN: WeakKeyDictionary[Backbone, list[Any]] = WeakKeyDictionary()  # [contexts, what ends them]


def check_recomputes(backbone: Backbone) -> None:
    """Refuse a model whose layers cannot be run a second time.

    Raises:
        BackboneError: it was compiled, or has no list of layers.
    """
    whole = compiled(backbone.model)
    if whole or not blocks_of(backbone.plain_model, backbone.num_layers):
        raise BackboneError(
            expected=f"a model with a list of its {backbone.num_layers} layers, to run them again "
            "in the backward pass",
            got=f"{backbone.name!r} ({backbone.family}), "
            + ("which torch.compile has changed" if whole else "without one"),
            remedy="Set activation_checkpointing=False.",
        )


@contextmanager
def recomputed(
    backbone: Backbone, checkpoint: Callable[..., Any], every: int = 1
) -> Iterator[None]:
    """Let layers of a backbone keep their input alone, in passes with gradients in this context.

    Passes of other threads do so meanwhile, too, which changes none of their values. Of contexts
    that are open at the same time the first says how.

    Args:
        backbone: the frozen model.
        checkpoint: `torch.utils.checkpoint.checkpoint` with its options, not reentrant: gradients
            reach a prefix, which is no argument of its layer.
        every: of so many layers one is run again.
    """
    with _LOCK:
        entry = _OPEN.setdefault(backbone, [0, ExitStack()])
        entry[0] += 1
        if entry[0] == 1:
            for block in blocks_of(backbone.plain_model, backbone.num_layers)[::every]:
                entry[1].enter_context(_wrapped(block, backbone, checkpoint))
    try:
        yield
    finally:
        with _LOCK:
            entry[0] -= 1
            if not entry[0]:
                del _OPEN[backbone]
                entry[1].close()


@contextmanager
def _wrapped(
    block: nn.Module, backbone: Backbone, checkpoint: Callable[..., Any]
) -> Iterator[None]:
    from transformers import Cache

    forward, before = block.forward, vars(block).get("forward")

    @wraps(forward)
    def kept(*args: Any, **kwargs: Any) -> Any:
        # What is put into a cache would be put there a second time.
        cached = any(isinstance(value, Cache) for value in (*args, *kwargs.values()))
        if cached or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        call = CALL.get()
        turns = {} if call is None else {**call.turns}

        def run(*inputs: Any) -> Any:
            if call is None or CALL.get() is call:
                return forward(*inputs, **kwargs)
            with resumed(backbone, call, turns):  # in the backward pass, when the call has ended
                return forward(*inputs, **kwargs)

        return checkpoint(run, *args)

    block.forward = kept
    try:
        yield
    finally:
        del block.forward
        if before is not None:
            block.forward = before
