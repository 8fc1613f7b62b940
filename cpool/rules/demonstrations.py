"""Demonstrations: solved examples of each task, shown in front of every text."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from cpool.errors import StateError
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

    def clear(self) -> None:
        """Show nothing."""
        self.memory = self.get_buffer("memory")[:0].clone()

    def join(self, model: Any, other: Rule, tasks: int) -> None:
        """Show the examples of another rule, too, after one's own.

        Raises:
            StateError: a class that both show.
        """
        assert isinstance(other, Demonstrations)
        mine, others = (unpacked(rule.get_buffer("memory")) for rule in (self, other))
        if again := sorted({label for _, label in mine} & {label for _, label in others}):
            raise _shared(again)
        self.memory = packed([*mine, *others]).to(self.get_buffer("memory").device)

    def forget(self, model: Any, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Show the examples of a task no more.

        Raises:
            StateError: another task has one of its classes.
        """
        others = {c for number, group in enumerate(tasks) if number != task for c in group}
        if again := sorted(others & {*tasks[task]}):
            raise _shared(again)
        memory = self.get_buffer("memory")
        kept = [row for row in unpacked(memory) if row[1] not in tasks[task]]
        self.memory = packed(kept).to(memory.device)

    def layout(self) -> dict[str, Any]:
        """Return how many bytes the examples are."""
        return {"bytes": len(self.get_buffer("memory"))}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the examples of `layout`."""
        self.memory = self.get_buffer("memory").new_zeros(layout["bytes"])


def _shared(classes: list[int]) -> StateError:
    return StateError(
        expected="tasks without a class in common: only the first of them is asked for examples",
        got=f"classes {classes[:5]} in several",
        remedy="Learn the tasks in sequence instead, with those that shall be known.",
    )
