"""Neighbours: all training texts are kept, and a text is shown those that are like it."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.backbones import Backbone
from cpool.errors import StateError
from cpool.language import Surround
from cpool.rule import Rule
from cpool.rules._texts import packed, unpacked

__all__ = ["Neighbours", "nearest_rows"]


def nearest_rows(
    query: Float[Tensor, " Q"],
    features: Float[Tensor, "n Q"],
    labels: Int[Tensor, " n"],
    each: int,
) -> Int[Tensor, " k"]:
    """Return the `each` rows of each class that are most like a query, the most similar last.

    Args:
        query: of length 1, so that a product is a cosine.
        features: of the rows, likewise.
        labels: their classes.
        each: rows a class; all of them where there are fewer.

    >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> nearest_rows(rows[0], rows, torch.tensor([7, 7, 9]), 1).tolist()
    [2, 0]
    """
    order = (features @ query).argsort(descending=True, stable=True)
    member = labels[order, None] == torch.unique(labels)  # [n C]
    kept = (member & (member.cumsum(0) <= each)).any(dim=1)
    return order[kept].flip(0)


class Neighbours(Rule):
    """Show each text, of each class, the k training texts that are nearest to it.

    Nearness is the cosine of the backbone's unprompted query features, and the nearest stands last,
    beside the text (Liu et al., *What makes good in-context examples for GPT-3?*, DeeLIO 2022, who
    take k of all classes together). A text and its like are run by themselves, so that what a text
    is shown depends on nothing else in its batch, not even in the last bit.

    Args:
        surround: of the model.
        each: k.
        backbone: the language model.
    """

    needs_raw: ClassVar[bool] = True

    def __init__(self, surround: Surround, each: int, backbone: Backbone) -> None:
        super().__init__()
        self.each, self.words = each, surround.words
        self._frozen = (backbone,)  # a tuple hides it from the module tree
        surround.chooser = self
        self.register_buffer("memory", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("features", torch.zeros(0, backbone.query_size))

    @property
    def version(self) -> str:
        """A digest of the memory and k."""
        digest = hashlib.sha256(self.get_buffer("memory").cpu().numpy().tobytes())
        return f"{self.each} nearest of {digest.hexdigest()}"

    def choose(self, texts: Sequence[str]) -> list[list[dict[str, str]]]:
        """Return the examples of each text, in their order."""
        rows, features = unpacked(self.get_buffer("memory")), self.get_buffer("features").float()
        labels = torch.tensor([label for _, label in rows], device=features.device).long()
        examples = [{"text": text, "label": self.words.of([label])[0]} for text, label in rows]
        return [
            [examples[i] for i in nearest_rows(query, features, labels, self.each).tolist()]
            for query in self._queries(texts)
        ]

    @torch.no_grad()
    def _queries(self, texts: Sequence[str]) -> Float[Tensor, "n Q"]:
        """Return the query features of texts, each run alone and divided by its length."""
        (backbone,), place = self._frozen, self.get_buffer("features").device
        with torch.autocast(backbone.device.type, enabled=False):
            made = [backbone.query(backbone.prepare([text])).float() for text in texts]
        return F.normalize(torch.cat(made), dim=1).to(place)

    def study(self, model: Any, x: Any, y: npt.NDArray[np.int64], task: int) -> None:
        """Keep all texts of a task and their features."""
        memory, features = self.get_buffer("memory"), self.get_buffer("features")
        texts = [str(text) for text in x]
        rows = [*unpacked(memory), *zip(texts, np.asarray(y).tolist(), strict=True)]
        self.memory = packed(rows).to(memory.device)
        self.features = torch.cat([features, self._queries(texts).to(features.dtype)])

    def clear(self) -> None:
        """Keep nothing."""
        for name in ("memory", "features"):
            setattr(self, name, self.get_buffer(name)[:0].clone())

    def join(self, model: Any, other: Rule, tasks: int) -> None:
        """Keep the texts of another rule, too, after one's own."""
        assert isinstance(other, Neighbours)
        memory, features = self.get_buffer("memory"), self.get_buffer("features")
        rows = [*unpacked(memory), *unpacked(other.get_buffer("memory"))]
        self.memory = packed(rows).to(memory.device)
        self.features = torch.cat([features, other.get_buffer("features").to(features)])

    def forget(self, model: Any, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Drop the texts of a task.

        Raises:
            StateError: another task has one of its classes.
        """
        others = {c for number, group in enumerate(tasks) if number != task for c in group}
        if again := sorted(others & {*tasks[task]}):
            raise StateError(
                expected="a task whose classes no other has, since texts are kept by class",
                got=f"task {task}, which shares {again[:5]}",
                remedy="Learn the stream anew without it.",
            )
        memory = self.get_buffer("memory")
        rows = unpacked(memory)
        kept = [i for i, (_, label) in enumerate(rows) if label not in tasks[task]]
        self.memory = packed([rows[i] for i in kept]).to(memory.device)
        self.features = self.get_buffer("features")[kept].clone()

    def layout(self) -> dict[str, Any]:
        """Return how many bytes the texts are, and how many texts."""
        return {"bytes": len(self.get_buffer("memory")), "rows": len(self.get_buffer("features"))}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the texts of `layout`."""
        self.memory = self.get_buffer("memory").new_zeros(layout["bytes"])
        features = self.get_buffer("features")
        self.features = features.new_zeros(layout["rows"], features.shape[1])
