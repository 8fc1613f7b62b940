"""Demonstrations: solved examples of each task, shown in front of every text."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from cpool.language import Surround
from cpool.rule import Rule

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
        self.surround, self.each = surround, each
        self.shown: set[int] = set()

    def study(self, model: Any, x: Any, y: npt.NDArray[np.int64], task: int) -> None:
        """Draw examples of the classes that have none yet; orders are drawn, too."""
        chosen: list[tuple[int, int]] = []
        for label in sorted(set(y.tolist()) - self.shown):
            rows = np.flatnonzero(y == label)
            picked = torch.randperm(len(rows))[: self.each].tolist()
            chosen += [(int(rows[i]), label) for i in picked]
            self.shown.add(label)
        order = torch.randperm(len(chosen)).tolist()
        names = self.surround.words.of([label for _, label in chosen])
        self.surround.show([{"text": str(x[chosen[i][0]]), "label": names[i]} for i in order])

    def layout(self) -> dict[str, Any]:
        """Return the examples: they are the memory of this method."""
        return {"examples": self.surround.examples, "shown": sorted(self.shown)}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Show the examples of `layout`."""
        self.surround.examples = [dict(example) for example in layout["examples"]]
        self.shown = set(layout["shown"])
