"""Raw texts as bytes, so that a checkpoint holds them and their size counts."""

import json
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

__all__ = ["packed", "unpacked"]


def packed(rows: Sequence[tuple[str, int]]) -> UInt8[Tensor, " bytes"]:
    """Return texts and their labels as bytes.

    >>> unpacked(packed([("a text", 3)]))
    [('a text', 3)]
    """
    made = json.dumps(list(rows), ensure_ascii=False).encode()
    return torch.frombuffer(bytearray(made), dtype=torch.uint8)


def unpacked(memory: UInt8[Tensor, " bytes"]) -> list[tuple[str, int]]:
    """Return the texts and labels of `packed`; none where nothing was packed."""
    raw = bytes(memory.cpu().numpy())
    return [(text, label) for text, label in (json.loads(raw) if raw else [])]
