"""Accuracy on the way through training: what a prompt is worth after so many steps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cpool import Learner
from cpool.backbones import Backbone
from cpool.initialisers import from_values
from cpool.methods import Method
from cpool.optimise import make_optimizer, train_step
from cpool.seeding import seeded
from cpool.streams import Task

__all__ = ["MARKS", "curve", "learner_of", "prompt_of", "starting"]

MARKS = (0, 10, 30, 60)


def learner_of(
    method: Method, backbone: Backbone, names: Sequence[str], seed: int, **settings: Any
) -> Learner:
    """Return a learner whose model knows the names of the classes."""
    with seeded(seed, "build"):
        learner = Learner(method.build(backbone), seed=seed, quiet=True, **settings)
    learner.model.name_classes(names)
    return learner


def curve(learner: Learner, task: Task) -> list[float]:
    """Train the next task and return its accuracy after each number of steps of MARKS."""
    number = len(learner.model.tasks)
    loader = learner.loader_of((task.train.x, task.train.y), task.name)
    optimizer = make_optimizer(learner.model, learner.train)
    done, found, head = 0, [], learner.model.head
    own = head.columns(torch.tensor(sorted(task.classes)))

    @torch.no_grad()
    def measured() -> float:
        # As in training, where a task has its own prompt though it has not ended.
        right = 0
        for batch in learner.feed.loader(task.test, task=number, training=True):
            # Of the task alone, however many classes the model knows from before it.
            logits = learner.model(batch, task=number).logits[:, own]
            right += int((own[logits.argmax(dim=1)] == head.columns(batch["labels"])).sum())
        return right / len(task.test)

    while True:
        for batch in loader:
            if done in MARKS:
                found.append(measured())
            if done == MARKS[-1]:
                return found
            train_step(
                learner.model, batch, learner.train, learner.accelerator, number, optimizer, None
            )
            done += 1


def prompt_of(learner: Learner, slot: int = 0) -> Tensor:
    """Return a prompt [S P W] as it is now."""
    assert learner.model.prompter is not None
    return next(iter(learner.model.prompter)).pool.values()[slot].detach().clone()


def starting(learner: Learner, values: Tensor) -> Learner:
    """Let the next prompt begin as these values."""
    assert learner.model.prompter is not None
    next(iter(learner.model.prompter)).pool.init = from_values(values[None])
    return learner
