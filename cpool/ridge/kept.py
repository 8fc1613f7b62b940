"""KeptTasks: each task's share of the statistics, so that it can be taken out again."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpool.ridge.sample import sampled

__all__ = ["KeptTasks"]


class KeptTasks(nn.Module):
    """For each task its random features Z_t and labels, or `Z_tᵀ Z_t` where that is smaller.

    Z_t is kept in float32, in which it was computed: n_t × M × 4 bytes; G_t and Q_t in float64.

    Args:
        width: M.
        sampled: how many rows of a task can be asked for by `sample`.
    """

    def __init__(self, width: int, sampled: int = 0) -> None:
        super().__init__()
        self.width, self.sampled = width, sampled
        self.shares: list[dict[str, Any]] = []

    def __len__(self) -> int:
        """Return how many tasks are kept."""
        return len(self.shares)

    def add(self, rows: Float[Tensor, "n M"], labels: Int[Tensor, " n"]) -> None:
        """Keep the share of the next task."""
        names = torch.unique(labels)
        task = len(self.shares)
        if 2 * (self.width + len(names)) < len(rows):
            index = torch.searchsorted(names, labels)
            targets = nn.functional.one_hot(index, len(names)).to(rows)
            self._put(task, {"gram": rows.T @ rows, "cross": rows.T @ targets})
            if self.sampled:
                places = sampled(rows, labels, self.sampled)
                few = {"rows": rows[places].float(), "labels": labels[places].clone()}
                self._put(task, few)
        else:
            self._put(task, {"rows": rows.float(), "labels": labels.clone()})
        self.shares.append({"classes": names.tolist(), "n": len(rows)})

    def _put(self, task: int, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(f"{name}_{task}", tensor)

    def _of(self, task: int) -> dict[str, Tensor]:
        end = f"_{task}"
        return {
            name.removesuffix(end): tensor
            for name, tensor in self.named_buffers()
            if name.endswith(end)
        }

    def classes(self, task: int) -> list[int]:
        """Return the classes of a task."""
        return list(self.shares[task]["classes"])

    def gram(self, task: int) -> Float[Tensor, "M M"]:
        """Return G_t."""
        kept = self._of(task)
        if "gram" in kept:
            return kept["gram"]
        rows = kept["rows"].double()
        return rows.T @ rows

    def cross(self, task: int) -> dict[int, Float[Tensor, " M"]]:
        """Return Q_t, one column a class."""
        kept, names = self._of(task), self.classes(task)
        if "cross" in kept:
            return {c: kept["cross"][:, i] for i, c in enumerate(names)}
        rows = kept["rows"].double()
        return {c: rows[kept["labels"] == c].sum(dim=0) for c in names}

    def sample(self, task: int) -> tuple[Float[Tensor, "n M"], Int[Tensor, " n"]]:
        """Return rows of a task and their labels: all, or at least `sampled` of them."""
        kept = self._of(task)
        return kept["rows"], kept["labels"]

    def count(self, task: int) -> int:
        """Return n_t."""
        return int(self.shares[task]["n"])

    def remove(self, task: int) -> None:
        """Drop a share; the later ones move up."""
        moved = [self._of(number) for number in range(task + 1, len(self.shares))]
        for number in range(task, len(self.shares)):
            for name in self._of(number):
                delattr(self, f"{name}_{number}")
        del self.shares[task]
        for number, tensors in enumerate(moved, start=task):
            self._put(number, tensors)

    def join(self, other: "KeptTasks") -> None:
        """Take over the shares of another, after one's own."""
        for number, share in enumerate(other.shares):
            tensors = {name: tensor.clone() for name, tensor in other._of(number).items()}
            self._put(len(self.shares), tensors)
            self.shares.append(dict(share))

    def layout(self) -> list[dict[str, Any]]:
        """Return classes, sizes and shapes of the shares (JSON)."""
        return [
            {**share, "shapes": {name: list(t.shape) for name, t in self._of(i).items()}}
            for i, share in enumerate(self.shares)
        ]

    def restore(self, layout: list[dict[str, Any]]) -> None:
        """Make the tensors of a `layout`, ready for `load_state_dict`."""
        for number in range(len(self.shares)):
            for name in self._of(number):
                delattr(self, f"{name}_{number}")
        self.shares = []
        types = {"rows": torch.float32, "labels": torch.int64}
        for number, share in enumerate(layout):
            made = {
                name: torch.zeros(shape, dtype=types.get(name, torch.float64))
                for name, shape in share["shapes"].items()
            }
            self._put(number, made)
            self.shares.append({key: share[key] for key in ("classes", "n")})
