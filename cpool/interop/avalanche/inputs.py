"""What Avalanche hands to a model as one tensor, as the raw inputs that a backbone prepares."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from cpool.errors import DataError

__all__ = ["check_rows", "decoded", "encoded", "raw_inputs"]


def encoded(texts: Sequence[str], width: int = 1) -> UInt8[Tensor, "n L"]:
    """Return texts as bytes of UTF-8, filled with zeros: what a tensor data set can hold.

    Args:
        texts: n of them.
        width: L at least; sets that are to be mixed need the same.

    >>> encoded(["ab", "c"])
    tensor([[97, 98],
            [99,  0]], dtype=torch.uint8)
    """
    rows = [text.encode("utf-8", "surrogatepass") for text in texts]
    width = max([width, *(len(row) for row in rows)])
    joined = b"".join(row.ljust(width, b"\0") for row in rows)
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8).view(len(rows), width)


def decoded(rows: UInt8[Tensor, "n L"]) -> list[str]:
    """Return the texts of `encoded`.

    >>> decoded(encoded(["für", ""]))
    ['für', '']
    """
    return [
        row.tobytes().rstrip(b"\0").decode("utf-8", "surrogatepass") for row in rows.cpu().numpy()
    ]


def raw_inputs(x: Tensor, *, texts: bool = True) -> Any:
    """Return images as an array [n H W] or [n H W 3], or texts as a list.

    Args:
        x: uint8 or float images in [0, 1], [n H W], [n C H W] or [n H W C]; or texts as `encoded`.
        texts: whether they may be texts.

    Raises:
        DataError: anything else.
    """
    if texts and isinstance(x, Tensor) and x.dtype == torch.uint8 and x.ndim == 2:
        return decoded(x)
    right = isinstance(x, Tensor) and (x.dtype == torch.uint8 or x.dtype.is_floating_point)
    if not right or x.ndim not in (3, 4):
        kind = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise DataError(
            expected="images as one tensor [n C H W] or [n H W C], uint8 or float in [0, 1], or "
            "texts as bytes [n L]",
            got=kind,
            remedy="Make the data set with as_benchmark, or let its transform end with ToTensor().",
        )
    images: np.ndarray = x.detach().cpu().numpy()
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    return images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images


def check_rows(data: Any) -> None:
    """Refuse a data set without rows, or with others than tuples.

    Raises:
        DataError: which of the two.
    """
    if not len(data):
        raise DataError(
            expected="an experience with samples",
            got="none",
            remedy="Leave out experiences that have none.",
        )
    row = data[0]
    if isinstance(row, Mapping) or len(row) < 2:
        raise DataError(
            expected="rows of a data set as (x, y) or (x, y, task label)",
            got=f"a row of type {type(row).__name__}",
            remedy="Avalanche 0.6 runs no batches of mappings: return tuples.",
        )
