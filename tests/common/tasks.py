"""A tiny stream of three tasks for every kind of backbone, and models trained on it."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cpool.learner import Learner
from cpool.seeding import seeded
from cpool.streams import Stream, class_incremental
from tests import tiny
from tests.common.rows import ROWS

TASKS, CLASSES, EACH = 3, 6, 6


@cache
def stream(kind: str) -> Stream:
    """Return a class-incremental stream of random inputs with something to learn in each class."""

    def draw(seed: int, each: int) -> tuple[Any, np.ndarray]:
        y = np.repeat(np.arange(CLASSES), each)
        x = tiny.raw(kind, len(y), seed)
        if kind in tiny.VISION:
            x[np.arange(len(y)), y % 10, y] = 255
        else:
            x = [f"{tiny.WORDS[label]} {text}" for text, label in zip(x, y, strict=True)]
        return x, y

    x, y = draw(0, EACH)
    x_test, y_test = draw(1, 4)
    return class_incremental(x, y, x_test, y_test, tasks=TASKS, seed=0, validation=0, name="tiny")


OPTIMISERS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "weight_decay": 0.5, "lr": 0.01},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1, "lr": 0.01},
}


@dataclass
class Trained:
    """A learner after three tasks, and what was seen on the way."""

    learner: Learner
    before: dict[str, Tensor]
    frozen: list[dict[str, Tensor]] = field(default_factory=list)
    grown: list[dict[str, Tensor]] = field(default_factory=list)
    matrix: np.ndarray | None = None


def build(row: str, kind: str, *, seed: int = 0, optimizer: str = "adamw") -> Learner:
    """Return a new learner of a row on the shared tiny backbone."""
    backbone = tiny.backbone(kind)  # outside of the seeded block: making one draws, too
    with seeded(seed, "build"):
        model = ROWS[row]().build(backbone)
    options = OPTIMISERS[optimizer]
    return Learner(model, seed=seed, epochs=1, batch_size=6, device="cpu", quiet=True, **options)


@cache
def trained(row: str, kind: str, optimizer: str = "adamw") -> Trained:
    """Train a row on a kind, task by task, and note what each boundary froze and grew."""
    learner = build(row, kind, optimizer=optimizer)
    backbone = tiny.backbone(kind)
    seen = Trained(learner, _copy(backbone.model.state_dict()))
    if learner.model.method.joint:
        learner.run(stream(kind))
        return seen
    accuracies = np.full((TASKS, TASKS), np.nan)
    for task in stream(kind):
        _watch(learner, seen)
        learner.fit_task(task)
        told = learner.model.method.needs_task or None
        some = stream(kind)[: task.index + 1]
        accuracies[task.index, : task.index + 1] = learner.evaluate(some, told=told)
    seen.matrix = accuracies
    return seen


def _watch(learner: Learner, seen: Trained) -> None:
    """Note, right after the coming begin_task, what is frozen and what is new."""
    begin = learner.model.begin_task

    def begin_and_note(*args: Any, **kwargs: Any) -> int:
        known = {id(p) for _, p in nn.Module.named_parameters(learner.model)}
        number = begin(*args, **kwargs)
        everything = dict(nn.Module.named_parameters(learner.model))
        seen.frozen.append(_copy({n: p for n, p in everything.items() if not p.requires_grad}))
        seen.grown.append(_copy({n: p for n, p in everything.items() if id(p) not in known}))
        return number

    learner.model.begin_task = begin_and_note
    original = learner.fit_task

    def fit_once(*args: Any, **kwargs: Any) -> None:
        try:
            original(*args, **kwargs)
        finally:
            learner.model.begin_task = begin
            learner.fit_task = original

    learner.fit_task = fit_once


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def logits(learner: Learner, batch: dict[str, Tensor], task: int | None = None) -> Tensor:
    """Return the logits of a batch without gradient."""
    with torch.no_grad():
        return learner.model.eval()(batch, task=task).logits
