"""ContentFree: takes off the score that a label has after a text that says nothing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.rule import Rule

__all__ = ["BLANK", "ContentFree", "take_off_priors"]

BLANK = ("N/A", "[MASK]", "none")
"""The texts without content of the paper."""


@torch.no_grad()
def take_off_priors(model: Any, texts: Sequence[str], task: int | None = None) -> None:
    """Let the prior of each label be the logarithm of its mean probability after these texts.

    Args:
        model: in eval mode, whose head scores labels; with the words that stand around a text now.
        texts: without content.
        task: the task whose labels alone are scored; the others get no prior.
    """
    model.head.prior.zero_()
    scores = model.answer(model.prepare(list(texts)), task).logits
    prior = scores.logsumexp(dim=0) - math.log(len(texts))
    model.head.prior.copy_(prior.where(prior.isfinite(), 0.0))


class ContentFree(Rule):
    """At the end of each task, let the prior of a label be its mean probability after no content.

    `prior_c = log mean_e exp(s_c(e))`, s the score of the head without a prior, after the texts
    "N/A", "[MASK]" and "none" (Zhao et al., *Calibrate before use*, ICML 2021, section 4). What
    trains does so without priors, which belong to the prompt as it is when the task ends.

    Args:
        texts: without content.
    """

    def __init__(self, texts: tuple[str, ...] = BLANK) -> None:
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

    def end(
        self,
        model: Any,
        batches: Iterable[Mapping[str, Tensor]],
        features: Float[Tensor, "n F"] | None,
        labels: Int[Tensor, " n"] | None,
        task: int,
    ) -> None:
        """Score the texts without content, over all classes seen."""
        take_off_priors(model, self.texts)
