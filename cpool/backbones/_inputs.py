"""From a batch to what a model takes: keys, device and type, padding to the right, lengths."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from cpool.backbones.families import Kind
from cpool.errors import DataError

__all__ = ["Batch", "check_length", "picked", "smallest"]

Batch = Mapping[str, Tensor]


def picked(
    batch: Batch, kind: Kind, takes: Collection[str], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the keys that a model of this kind takes, on its device; labels stay behind."""
    if kind == "vision":
        return {"pixel_values": _main(batch, "pixel_values", 4, "[B C H W]").to(device, dtype)}
    ids = _main(batch, "input_ids", 2, "[B T]").to(device)
    mask = batch.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask.to(device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if kind == "text" and "token_type_ids" in takes and "token_type_ids" in batch:
        inputs["token_type_ids"] = batch["token_type_ids"].to(device)
    return inputs if kind == "causal" else _aligned(inputs)


def _main(batch: Batch, key: str, dims: int, shape: str) -> Tensor:
    tensor = batch.get(key)
    if tensor is None or tensor.dim() != dims:
        got = f"keys {sorted(batch)}" if tensor is None else f"shape {tuple(tensor.shape)}"
        raise DataError(
            expected=f"a batch with {key!r} of shape {shape}",
            got=got,
            remedy="Make it with `backbone.prepare(inputs)`.",
        )
    return tensor


def _aligned(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move padding to the right, so that token 0 of an encoder is [CLS], or beside its prompts."""
    mask = inputs["attention_mask"]
    if bool(mask[:, 0].all()):
        return inputs
    order = mask.argsort(dim=1, descending=True, stable=True)
    return {key: value.gather(1, order) for key, value in inputs.items()}


def check_length(
    mask: Int[Tensor, "B T"], offset: int | Int[Tensor, "B 1"], limit: int | None
) -> None:
    """Refuse rows of more real tokens than there are positions.

    Raises:
        DataError: with the longest row and what to do.
    """
    # The width is free to read; only when it is too large is the mask looked at.
    several = isinstance(offset, Tensor)
    if limit is None or (not several and mask.shape[1] + offset <= limit):
        return
    longest = int((mask.sum(1, keepdim=True) + offset).max())
    if longest > limit:
        raise DataError(
            expected=f"at most {limit} tokens, prompts included",
            got=f"{longest}",
            remedy="Cut the texts: `prepare(texts, max_tokens=…)`.",
        )


def smallest(config: Any, kind: Kind) -> dict[str, Tensor]:
    """Return a batch of one black image, or of one text of two tokens."""
    if kind == "vision":
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.zeros(1, getattr(config, "num_channels", 3), height, width)}
    # An id that is not the pad id, which some models count positions by.
    token = next(i for i in range(2) if i != getattr(config, "pad_token_id", None))
    return {"input_ids": torch.full((1, 2), token)}
