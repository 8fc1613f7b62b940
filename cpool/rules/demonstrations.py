"""Demonstrations: solved examples of each task, shown in front of every text."""

import json
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
        self.each, self.words = each, surround.words
        surround.examples = self.examples
        # Raw text as bytes, so that a checkpoint holds it and its size counts.
        self.register_buffer("memory", torch.zeros(0, dtype=torch.uint8))

    def examples(self) -> list[dict[str, str]]:
        """Return what is shown, in its order."""
        raw = bytes(self.get_buffer("memory").cpu().numpy())
        return [
            {"text": text, "label": self.words.of([label])[0]}
            for text, label in (json.loads(raw) if raw else [])
        ]

    def study(self, model: Any, x: Any, y: npt.NDArray[np.int64], task: int) -> None:
        """Draw examples of the classes that have none yet; orders are drawn, too."""
        memory = self.get_buffer("memory")
        raw = bytes(memory.cpu().numpy())
        shown: list[tuple[str, int]] = json.loads(raw) if raw else []
        known = {label for _, label in shown}
        chosen: list[tuple[str, int]] = []
        y = np.asarray(y)
        for label in sorted(set(y.tolist()) - known):
            rows = np.flatnonzero(y == label)
            picked = torch.randperm(len(rows))[: self.each].tolist()
            chosen += [(str(x[int(rows[i])]), label) for i in picked]
        shown += [chosen[i] for i in torch.randperm(len(chosen)).tolist()]
        made = json.dumps(shown, ensure_ascii=False).encode()
        self.memory = torch.frombuffer(bytearray(made), dtype=torch.uint8).to(memory.device)

    def layout(self) -> dict[str, Any]:
        """Return how many bytes the examples are."""
        return {"bytes": len(self.get_buffer("memory"))}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the examples of `layout`."""
        self.memory = self.get_buffer("memory").new_zeros(layout["bytes"])
