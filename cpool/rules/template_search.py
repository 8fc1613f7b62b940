"""TemplateSearch: of several hard prompts, the one that served the training rows best."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from cpool.language import Surround, Template
from cpool.rule import Rule
from cpool.rules.content_free import take_off_priors

__all__ = ["TemplateSearch"]

# Rows of one pass.
BATCH = 16


class TemplateSearch(Rule):
    r"""Score templates on rows of each task, and put the best so far around all texts.

    `S_m = Σ_{(x, y)} log p(y | m(x))` over rows of all tasks so far, p the softmax over the classes
    of the row's task; or how many rows are right. A sum needs no row of an older task again: what a
    template reached there stays in it, with the labels that it listed then. The first of equal ones
    is taken; a task of one class tells nothing. With `blank` texts the scores of a template are
    calibrated by what its labels have after these (`ContentFree`), as they will be at test.

    Args:
        surround: of the model.
        templates: to choose from.
        rows: training rows of each task at most, drawn at random.
        score: "loss", the log-probability of the right class, or "accuracy".
        blank: texts without content, to calibrate each template by; none leaves scores as they are.

    Attributes:
        scores: S of each template.
        seen: rows scored so far.
    """

    needs_raw: ClassVar[bool] = True

    def __init__(
        self,
        surround: Surround,
        templates: Sequence[Template],
        rows: int,
        score: Literal["loss", "accuracy"],
        blank: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.surround, self.templates = surround, tuple(templates)
        self.rows, self.score, self.blank = rows, score, tuple(blank)
        self.scores, self.seen = [0.0] * len(self.templates), 0
        surround.template = self.best

    @property
    def best(self) -> Template:
        """The template of the highest score so far."""
        return self.templates[self.scores.index(max(self.scores))]

    @torch.no_grad()
    def study(self, model: Any, x: Any, y: npt.NDArray[np.int64], task: int) -> None:
        """Score every template on some rows of a task, and use the best from now on."""
        picked = torch.randperm(len(y))[: self.rows].tolist()
        texts, labels = [str(x[i]) for i in picked], torch.as_tensor(np.asarray(y)[picked])
        training, found, prior = model.training, [], model.head.prior.clone()
        model.eval()
        try:
            for template in self.templates:
                self.surround.template = template
                if self.blank:
                    take_off_priors(model, self.blank, task)
                found.append(self._score(model, texts, labels, task))
            # All or none: a template that fails leaves the others as they were.
            self.scores = [old + new for old, new in zip(self.scores, found, strict=True)]
            self.seen += len(picked)
        finally:
            self.surround.template = self.best
            model.head.prior.copy_(prior)
            model.train(training)

    def _score(self, model: Any, texts: list[str], labels: Int[Tensor, " n"], task: int) -> float:
        total = 0.0
        for start in range(0, len(texts), BATCH):
            logits = model.answer(model.prepare(texts[start : start + BATCH]), task).logits
            right = model.head.columns(labels[start : start + BATCH].to(logits.device))
            if self.score == "loss":
                chances = logits.double().log_softmax(dim=1)
                total += float(chances.gather(1, right[:, None]).sum())
            else:
                total += float((logits.argmax(dim=1) == right).sum())
        return total

    def layout(self) -> dict[str, Any]:
        """Return the template in use, and what each was worth."""
        scores = dict(zip((t.source for t in self.templates), self.scores, strict=True))
        return {"template": self.best.source, "rows": self.seen, "scores": scores}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Take the scores of `layout`, and so its choice."""
        self.scores = [layout["scores"][t.source] for t in self.templates]
        self.seen = layout["rows"]
        self.surround.template = self.best
