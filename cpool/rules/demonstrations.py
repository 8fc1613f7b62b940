"""Demonstrations: solved examples of each task, shown in front of every text."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from cpool.language import Surround
from cpool.rule import Rule
from cpool.rules._texts import packed, unpacked

__all__ = ["Demonstrations"]


class Demonstrations(Rule):
    """Choose k training texts of each new class at random, and show them in the template.

    Args:
        surround: of the model.
        each: k.
    """

    needs_raw: ClassVar[bool] = True

    def __init__(self, surround: Surround, each: int) -> None:
        super().__init__()
        self.each, self.words = each, surround.words
        surround.examples = self.examples
        self.register_buffer("memory", torch.zeros(0, dtype=torch.uint8))

    def examples(self) -> list[dict[str, str]]:
        """Return what is shown, in its order."""
        return [
            {"text": text, "label": self.words.of([label])[0]}
            for text, label in unpacked(self.get_buffer("memory"))
        ]

    def study(self, model: Any, x: Any, y: npt.NDArray[np.int64], task: int) -> None:
        """Draw examples of the classes that have none yet; orders are drawn, too."""
        memory = self.get_buffer("memory")
        shown = unpacked(memory)
        known = {label for _, label in shown}
        chosen: list[tuple[str, int]] = []
        y = np.asarray(y)
        for label in sorted(set(y.tolist()) - known):
            rows = np.flatnonzero(y == label)
            picked = torch.randperm(len(rows))[: self.each].tolist()
            chosen += [(str(x[int(rows[i])]), label) for i in picked]
        shown += [chosen[i] for i in torch.randperm(len(chosen)).tolist()]
        self.memory = packed(shown).to(memory.device)

    def layout(self) -> dict[str, Any]:
        """Return how many bytes the examples are."""
        return {"bytes": len(self.get_buffer("memory"))}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the examples of `layout`."""
        self.memory = self.get_buffer("memory").new_zeros(layout["bytes"])
