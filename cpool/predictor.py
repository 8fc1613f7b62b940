"""Predictor: a model's answers to any number of examples, in the order of the examples."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.backbones import Truncations
from cpool.data import by_length
from cpool.errors import DataError
from cpool.feed import Feed
from cpool.streams import Examples, Task

__all__ = ["Prediction", "Predictor"]


class Prediction(NamedTuple):
    """What a model says of n samples.

    Attributes:
        labels: the class of the largest logit, [n].
        probabilities: softmax of the logits, [n C], columns as in `Learner.classes`.
        slots: branch name → which slots each sample got, [n K].
    """

    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n C"]
    slots: dict[str, Int[np.ndarray, "n K"]]


class Predictor:
    """Answers examples, each alone: sorted by length, in batches, put back in order.

    Args:
        feed: of the model that answers.
        autocast: the context of mixed precision.
    """

    def __init__(self, feed: Feed, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self.feed, self.autocast = feed, autocast

    def predict(
        self,
        examples: Examples,
        task: int | None = None,
        *,
        classes: Sequence[int] | None = None,
        cached: bool = True,
    ) -> Prediction:
        """Answer all examples.

        Args:
            examples: what to answer.
            task: the task that the model is told.
            classes: the classes that compete, where they are no task of the model; all if None.
            cached: use features computed before.
        """
        # First: a process that ends alone lets the others wait.
        self.feed.model.passes.processes.check_same("inputs", f"{task} {examples.digest()}")
        if not len(examples):
            raise DataError(expected="at least one input", got="none", remedy="Pass some inputs.")
        model = self.feed.model
        model.eval()
        model.check_task(task)
        order = by_length(examples)
        examples, back = examples.take(order), np.argsort(order)
        logits: list[Tensor] = []
        slots: dict[str, list[Tensor]] = {}
        with torch.no_grad(), self.autocast(), Truncations().once():
            for batch in self.feed.loader(examples, task=task, cached=cached):
                batch.pop("labels")
                output = model(batch, task=task)
                logits.append(output.logits.float().cpu())
                for branch, selection in output.selections.items():
                    index = selection.index.expand(len(output.logits), -1).cpu()
                    slots.setdefault(branch, []).append(index)
        joined = torch.cat(logits)[back]
        if classes is not None:
            others = [column for column, c in enumerate(model.classes) if c not in set(classes)]
            joined[:, others] = -torch.inf
        labels = np.asarray(model.classes)[joined.argmax(dim=1).numpy()]
        used = {branch: torch.cat(index).numpy()[back] for branch, index in slots.items()}
        return Prediction(labels, joined.softmax(dim=1).numpy(), used)

    def accuracies(
        self, tasks: Sequence[Task], *, told: bool, cached: bool = True
    ) -> tuple[list[float], dict[str, list[list[int]]]]:
        """Return the accuracy on the test data of each task, and how often each slot was used.

        Args:
            tasks: whose test data is answered.
            told: whether the model is told the task. Joint training has had one task of all
                classes, so that it is told the classes of the task instead.
            cached: use features computed before.
        """
        model = self.feed.model
        joint = model.method is not None and model.method.joint
        accuracies: list[float] = []
        usage: dict[str, list[list[int]]] = {}
        for task in tasks:
            prediction = self.predict(
                task.test,
                task.index if told and not joint else None,
                classes=task.classes if told and joint else None,
                cached=cached,
            )
            accuracies.append(float((prediction.labels == task.test.y).mean()))
            for branch, index in prediction.slots.items():
                size = len(model.prompter.branches[branch].pool)  # type: ignore[union-attr,arg-type]
                counts = np.bincount(index.reshape(-1), minlength=size).tolist()
                usage.setdefault(branch, []).append(counts)
        return accuracies, usage
