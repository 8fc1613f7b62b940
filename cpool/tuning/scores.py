"""What a model makes of rows of completions: their loss, where they are sent, what it says."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from cpool.backbones.completions import end_of
from cpool.data import by_length
from cpool.learner import Learner
from cpool.model import PromptedModel
from cpool.streams import Examples

__all__ = ["ROWS", "Scores", "exact", "said", "score"]

ROWS = 16  # texts that are answered in words together


class Scores(NamedTuple):
    """The scores of n rows.

    Attributes:
        sums: log p of each completion, its end token included, in nats.
        tokens: how many tokens that is.
        tasks: the class of the task whose prompt each row got.
    """

    sums: Float[np.ndarray, " n"]
    tokens: Float[np.ndarray, " n"]
    tasks: Int[np.ndarray, " n"]

    @property
    def loss(self) -> float:
        """−log p, in nats a token over all rows."""
        return float(-self.sums.sum() / self.tokens.sum())


def score(learner: Learner, part: Examples, task: int | None = None) -> Scores:
    """Score the completions of some rows.

    Args:
        learner: that has learned a task.
        part: rows with completions.
        task: the task that is told; nobody tells it when None.
    """
    model = learner.model.eval()
    order = by_length(part)
    back = np.argsort(order)
    features, tasks = [], []
    with torch.no_grad(), learner.accelerator.autocast():
        for batch in learner.feed.loader(part.take(order), task=task, fixed=False):
            batch.pop("labels")
            output = model.answer(batch, task)
            assert output.features is not None  # a readout of completions has them
            features.append(output.features.double().cpu())
            tasks.append(output.logits.argmax(dim=1).cpu())
    found = torch.cat(features).numpy()[back]
    sent = np.asarray(model.classes)[torch.cat(tasks).numpy()[back]]
    return Scores(found[:, 0], found[:, 1], sent)


def said(model: PromptedModel, texts: Sequence[str], task: int | None, **options: Any) -> list[str]:
    """Return the words that a language model adds to each text, which is cut to leave them room.

    Args:
        model: whose prompts are used.
        texts: any number of them.
        task: the task that is told, if it is.
        **options: of transformers' `generate`; texts leave room for max_new_tokens.
    """
    rows, made = list(texts), []
    for start in range(0, len(rows), ROWS):
        batch = model.prepare(rows[start : start + ROWS], room=options.get("max_new_tokens") or 0)
        ids = model.generate(batch, task, **options)
        made += model.backbone.processor.batch_decode(ids, skip_special_tokens=True)
    return made


def exact(model: PromptedModel, part: Examples, task: int | None, longest: int) -> float:
    """Return the share of rows whose greedy completion is theirs, but for white space around it."""
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": longest}
    end = end_of(model.backbone.processor)
    found = said(model, list(part.x), task, eos_token_id=end, **options)
    wanted = part.completions or ()
    return float(np.mean([a.strip() == b.strip() for a, b in zip(found, wanted, strict=True)]))
