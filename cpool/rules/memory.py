"""Memory: a bounded sample of all examples that came, kept as tensors."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor, nn

from cpool.errors import ConfigError

__all__ = ["Memory", "inputs_of", "opened"]


class Memory(nn.Module):
    """At most `size` examples, in buffers, so that checkpoints and `stored_bytes` hold them.

    Each example that comes draws a priority u ~ U(0, 1). "reservoir" keeps the `size` smallest: a
    uniform sample without replacement of all that came, as by Vitter's algorithm R (1985).
    "class" ranks the examples of each class by u and keeps the smallest ranks: as many of each
    class as of any other while there are enough, uniform within a class. Either way what is kept
    does not depend on how the stream was cut into batches.

    Args:
        size: how many examples.
        keep: "reservoir" or "class".

    Attributes:
        labels, priority: of each example.
        names: of the other tensors, "x_…", one row an example.

    >>> memory = Memory(2)
    >>> memory.add({"query": torch.ones(5, 3)}, torch.arange(5))
    >>> {name: tuple(value.shape) for name, value in memory.draw(9).items()}
    {'query': (2, 3), 'labels': (2,)}
    """

    def __init__(self, size: int, keep: Literal["reservoir", "class"] = "reservoir") -> None:
        super().__init__()
        if size < 1 or keep not in ("reservoir", "class"):
            raise ConfigError(
                expected='a size of at least 1, keep "reservoir" or "class"',
                got=f"size={size}, keep={keep!r}",
                remedy="Without a memory, choose a method that has none.",
            )
        self.size, self.keep = size, keep
        self.names: list[str] = []
        self.labels: Int[Tensor, " m"]
        self.priority: Float64[Tensor, " m"]
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("priority", torch.zeros(0, dtype=torch.float64))

    def __len__(self) -> int:
        """Return how many examples are kept."""
        return len(self.labels)

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor], labels: Int[Tensor, " n"]) -> None:
        """Offer examples to the memory.

        Args:
            values: tensors of n rows, by name; those of two dimensions may be of another width
                than before: the narrower ones are filled with zeros.
            labels: of the examples.
        """
        device = self.labels.device
        labels = labels.to(device)
        # Drawn on the CPU, so that a device does not change what is kept.
        priority = torch.rand(len(labels), dtype=torch.float64).to(device)
        kept = self._kept(torch.cat([self.labels, labels]), torch.cat([self.priority, priority]))
        free, new = (~kept[: len(self)]).nonzero()[:, 0], kept[len(self) :].nonzero()[:, 0]
        for name, value in values.items():
            self._write(f"x_{name}", value.detach().to(device)[new], free)
        self._write("priority", priority[new], free)
        self._write("labels", labels[new], free)

    def _kept(
        self, labels: Int[Tensor, " n"], priority: Float64[Tensor, " n"]
    ) -> Bool[Tensor, " n"]:
        order = priority.argsort(stable=True)
        if self.keep == "class":
            rank = torch.zeros_like(order)
            for label in sorted(set(labels.tolist())):
                mine = order[labels[order] == label]
                rank[mine] = torch.arange(len(mine), device=rank.device)
            order = order[rank[order].argsort(stable=True)]
        kept = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        kept[order[: self.size]] = True
        return kept

    def _write(self, name: str, rows: Tensor, free: Int[Tensor, " f"]) -> None:
        """Put rows into the places that came free, and the others behind."""
        if name not in dict(self.named_buffers()):
            self.names.append(name)
            self.register_buffer(name, rows.new_zeros(0, *rows.shape[1:]))
        old = self.get_buffer(name)
        if rows.ndim == 2 and rows.shape[1] != old.shape[1]:
            width = max(rows.shape[1], old.shape[1])
            rows, old = (nn.functional.pad(t, (0, width - t.shape[1])) for t in (rows, old))
        old[free] = rows[: len(free)].to(old.dtype)
        setattr(self, name, torch.cat([old, rows[len(free) :].to(old.dtype)]))

    def draw(self, n: int) -> dict[str, Tensor]:
        """Return n different examples at random, all of them if there are no more."""
        rows = torch.randperm(len(self))[:n].to(self.labels.device)
        drawn = {name.removeprefix("x_"): self.get_buffer(name)[rows] for name in self.names}
        return {**drawn, "labels": self.labels[rows]}

    def layout(self) -> dict[str, Any]:
        """Return shapes and types of the tensors (JSON)."""
        tensors = {name: self.get_buffer(name) for name in self.names}
        return {
            name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
            for name, tensor in {**tensors, "labels": self.labels}.items()
        }

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the examples of `layout`."""
        count, device = layout["labels"][0][0], self.labels.device
        self.labels = self.labels.new_zeros(count)
        self.priority = self.priority.new_zeros(count)
        self.names = [name for name in layout if name.startswith("x_")]
        for name in self.names:
            shape, dtype = layout[name]
            tensor = torch.zeros(shape, dtype=getattr(torch, dtype), device=device)
            self.register_buffer(name, tensor)


def inputs_of(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a memory keeps of a batch.

    The query features where the model reads nothing else, otherwise the model's inputs: texts
    with their padding on the right, whole numbers in 32 bits.

    Args:
        model: the prompted model.
        batch: as it goes into the model.
    """
    if model.plain:
        return {"query": model.query(batch)}
    inputs: dict[str, Tensor] = model.backbone.model_inputs(batch)
    mask = inputs.get("attention_mask")
    if mask is None:
        return inputs
    order = mask.argsort(dim=1, descending=True, stable=True)
    return {name: value.gather(1, order).int() for name, value in inputs.items()}


def opened(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `inputs_of` made as a batch again, cut to its longest text."""
    batch = {name: v if v.is_floating_point() else v.long() for name, v in values.items()}
    mask = batch.get("attention_mask")
    if mask is None:
        return batch
    width = int(mask.sum(dim=1).max())
    texts = ("input_ids", "attention_mask", "token_type_ids")
    return {name: v[:, :width] if name in texts else v for name, v in batch.items()}
