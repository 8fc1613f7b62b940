"""RowSample: a few of all rows that were ever added, the same ones whatever their order."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["RowSample", "sampled"]

HASHED = 64  # features of a row that its key is made of
FACTORS = 6364136223846793005, 3935559000370003845  # odd, as linear congruential generators have


def _keys(rows: Float[Tensor, "n M"], labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return a number a row that is made of the bits of the row and its label, and looks drawn."""
    bits = rows[:, :HASHED].float().contiguous().view(torch.int32).long()
    key = labels.long()
    for column in bits.T:
        key = key * FACTORS[0] + column
        key = key ^ (key >> 29)
    return key * FACTORS[1]


def sampled(rows: Float[Tensor, "n M"], labels: Int[Tensor, " n"], size: int) -> Int[Tensor, " s"]:
    """Return the places of at most `size` rows, as if drawn: those of the smallest keys.

    A key is made of a row and its label alone. So a row that is among the first of many is among
    the first of any part of them, in which order ever they come: a sample of samples is a sample of
    all.
    """
    if len(rows) <= size:
        return torch.arange(len(rows), device=rows.device)
    return _keys(rows, labels).argsort(stable=True)[:size].sort().values


class RowSample(nn.Module):
    """At most `size` of the rows that were added, in float32, with their labels.

    Args:
        width: M.
        size: how many rows are kept.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size, self.seen = size, 0  # how many rows it is a sample of
        self.register_buffer("rows", torch.zeros(0, width))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        """Return how many rows are kept."""
        return len(self.get_buffer("rows"))

    def add(
        self, rows: Float[Tensor, "n M"], labels: Int[Tensor, " n"], of: int | None = None
    ) -> None:
        """Take rows into the sample, or some of them, or none, as their keys say.

        Args:
            rows: Z.
            labels: theirs.
            of: how many rows they are a sample of; they are all by default.
        """
        self.seen += len(rows) if of is None else of
        rows = torch.cat([self.get_buffer("rows"), rows.float()])
        labels = torch.cat([self.get_buffer("labels"), labels.to(rows.device)])
        places = sampled(rows, labels, self.size)
        self.rows, self.labels = rows[places].clone(), labels[places].clone()

    def join(self, other: "RowSample") -> None:
        """Take in another sample: what comes out is a sample of the rows of both."""
        self.add(other.get_buffer("rows"), other.get_buffer("labels"), other.seen)

    def clear(self) -> None:
        """Keep nothing."""
        self.restore({"rows": 0, "seen": 0})

    def layout(self) -> dict[str, Any]:
        """Return how many rows there are, and of how many."""
        return {"rows": len(self), "seen": self.seen}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the rows of `layout`."""
        rows, labels = self.get_buffer("rows"), self.get_buffer("labels")
        self.rows = rows.new_zeros(layout["rows"], rows.shape[1])
        self.labels = labels.new_zeros(layout["rows"])
        self.seen = int(layout["seen"])
