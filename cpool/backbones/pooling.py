"""From hidden states to one vector a sample: [CLS], or the mean over the real tokens."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from cpool.backbones.families import Family
from cpool.errors import ConfigError

__all__ = ["Pooling", "check_layers", "pool_cls", "pool_layers", "pool_mean", "resolve_pooling"]

Pooling = Literal["cls", "mean"]


def _precise(hidden: Tensor) -> Tensor:
    # Half-precision backbones still give float32 features: keys, heads and statistics are float32.
    return hidden.float() if hidden.dtype in (torch.float16, torch.bfloat16) else hidden


def pool_cls(hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """Return the first real token of each row, which is [CLS] whichever side the padding is on."""
    first = mask.int().argmax(1)
    rows = torch.arange(len(hidden), device=hidden.device)
    return _precise(hidden[rows, first])


def pool_mean(hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """Return the mean over the real tokens of each row, [CLS] among them; nothing else counts.

    >>> hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    >>> pool_mean(hidden, torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    kept = _precise(hidden).masked_fill(~mask.unsqueeze(-1), 0.0)
    return kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def pool_layers(
    states: Sequence[Float[Tensor, "B T D"]],
    mask: Bool[Tensor, "B T"],
    pooling: Pooling,
    normalize: bool,
) -> Float[Tensor, "B Q"]:
    """Pool every state, optionally L2-normalise each, and put them side by side.

    With `normalize`, each of the n layers is divided by its norm and the whole by √n, so that the
    result has norm 1 and no layer weighs more than another.
    """
    pool = pool_cls if pooling == "cls" else pool_mean
    pooled = [pool(state, mask) for state in states]
    if not normalize:
        return torch.cat(pooled, 1)
    unit = torch.cat([F.normalize(p, dim=1) for p in pooled], 1)
    return unit.div(len(pooled) ** 0.5)


def check_layers(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Return `layers` as a tuple, each in -(L+1) .. L.

    Raises:
        ConfigError: no layer, or one that the model lacks.
    """
    bad = [i for i in layers if not -num_layers - 1 <= i <= num_layers]
    if bad or not layers:
        raise ConfigError(
            expected=f"layers in {-num_layers - 1}..{num_layers} "
            "(0 the embeddings, i after block i, -1 the final state)",
            got=str(tuple(layers)),
            remedy="Name at least one layer that the model has.",
        )
    return tuple(layers)


def resolve_pooling(pooling: str, family: Family, name: str) -> Pooling:
    """Return how a kind of model is pooled: "auto" is [CLS] for vision models that have one.

    Raises:
        ConfigError: no such pooling, or [CLS] of a model without one.
    """
    if pooling == "auto":
        return "cls" if family.kind == "vision" and family.cls else "mean"
    if pooling == "mean":
        return "mean"
    if pooling != "cls":
        raise ConfigError(
            expected='pooling "auto", "cls" or "mean"',
            got=repr(pooling),
            remedy="Choose one of the three.",
        )
    if not family.cls:
        raise ConfigError(
            expected=f'pooling "mean" for {name}, which has no [CLS] token',
            got='"cls"',
            remedy='Use pooling="mean" or "auto".',
        )
    return "cls"
