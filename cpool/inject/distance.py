"""Distances: what a prefix is to a decoder that looks at how far back each word is, as T5's does.

Such a decoder adds a number for the distance to each score. A prefix stands directly in front of
the decoder's start token, as a cache of transformers would have it: its last token is one step back
of the start, the one before it two.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cpool.backbones._call import CALL, Call

__all__ = ["distance_bias", "makers", "noting_past"]


def makers(modules: list[nn.Module]) -> list[nn.Module | None]:
    """Return for each attention module, in layer order, the one that makes its bias.

    In UMT5 each makes its own, in T5 the first one that of all. None: nothing in the model does.
    """
    own = [module if hasattr(module, "relative_attention_bias") else None for module in modules]
    first = next((module for module in own if module is not None), None)
    return [first if module is None else module for module in own]


def distance_bias(
    maker: Any, call: Call, queries: int, length: int, real: Bool[Tensor, "B N"] | None
) -> Float[Tensor, "B heads T N"]:
    """Return what a layer adds to the scores of a prefix: b(distance), a row each or one for all.

    Args:
        maker: what makes the bias of the layer.
        call: of the pass: how many tokens it has behind it, or the depths of its tokens.
        queries: T, tokens of the decoder that look at the prefix.
        length: N, tokens of the prefix.
        real: which of them are there; padding has no distance, and whoever masks it ignores it.
    """
    device = maker.relative_attention_bias.weight.device
    if call.depths is None:
        furthest = call.past + queries - 1
        place = torch.arange(call.past, furthest + 1, device=device)
    else:
        furthest, place = len(call.depths) - 1, call.depths.to(device)
    ones = torch.ones(1, length, dtype=torch.bool, device=device) if real is None else real
    # How many tokens of the prefix stand from each to its end, itself included.
    left = ones.to(device).long().flip(1).cumsum(1).flip(1)
    back = left[:, None] + place[:, None]
    # The row of a word that far behind the first key has all distances up to it.
    furthest += length
    row = maker.compute_bias(1, furthest + 1, device=device, past_seen_tokens=furthest)
    by_distance: Tensor = row[0, :, 0].flip(1)
    return by_distance[:, back].transpose(0, 1)


@contextmanager
def noting_past(decoder: nn.Module) -> Iterator[None]:
    """Note at each forward of a decoder inside the context how many tokens its cache holds."""
    handle = decoder.register_forward_pre_hook(_note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    call = CALL.get()
    if call is not None:
        # transformers is giving the cache another name.
        cache = kwargs.get("past_key_values") or kwargs.get("cache")
        call.past = 0 if cache is None else int(cache.get_seq_length())
