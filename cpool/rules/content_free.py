"""ContentFree: takes off the score that a label has after a text that says nothing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.rule import Rule

__all__ = ["ContentFree"]


class ContentFree(Rule):
    """At the end of each task, let the prior of a label be its mean probability after no content.

    `prior_c = log mean_e exp(s_c(e))`, s the score of the head without a prior, after the texts
    "N/A", "[MASK]" and "none" (Zhao et al., *Calibrate before use*, ICML 2021, section 4).

    Args:
        texts: without content.
    """

    def __init__(self, texts: tuple[str, ...] = ("N/A", "[MASK]", "none")) -> None:
        super().__init__()
        self.texts = texts

    def clear(self) -> None:
        """Nothing is kept here: the priors are the head's."""

    def join(self, model: Any, other: Rule, tasks: int) -> None:
        """Score the texts anew, over all classes."""
        if model.classes:
            self.end(model, (), None, None, len(model.tasks) - 1)

    def forget(self, model: Any, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Score the texts anew, over the classes that are left."""
        self.join(model, self, task)

    @torch.no_grad()
    def end(
        self,
        model: Any,
        batches: Iterable[Mapping[str, Tensor]],
        features: Float[Tensor, "n F"] | None,
        labels: Int[Tensor, " n"] | None,
        task: int,
    ) -> None:
        """Score the texts without content, over all classes seen."""
        model.head.prior.zero_()
        scores = model.answer(model.prepare(list(self.texts))).logits
        model.head.prior.copy_(scores.logsumexp(dim=0) - math.log(len(self.texts)))
