"""Forgetting: a model as if it had never seen a task."""

import copy
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from cpool.errors import StateError
from cpool.exact.parts import check_separable, domain_router, lasting_head, restarted
from cpool.heads import ExpertHead, SessionHead
from cpool.model import PromptedModel

__all__ = ["forget", "kept", "numbers_of", "split"]


@torch.no_grad()
def forget(model: PromptedModel, task: int) -> PromptedModel:
    """Return a model that equals one that never saw a task; `model` stays as it is.

    Its `removed` says when what went, and so does the manifest of its checkpoints.

    Args:
        model: of a method in which what a task learned can be told apart; where statistics of
            several tasks are summed, built with `forgettable=True`.
        task: its number, from 0; later tasks move up.

    Raises:
        StateError, PoolError: no such task, one that trained a prompt that others use, one of
            which too little was kept, or a method whose tasks depend on each other.
    """
    (task,) = numbers_of(model, [task])
    check_separable(model)
    made = copy.deepcopy(model)
    classes = list(model.tasks[task])
    slots = _take_out(made, task)
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    made.removed.append({"task": task, "classes": classes, "slots": slots, "when": when})
    return made


def split(model: PromptedModel, tasks: Sequence[int]) -> tuple[PromptedModel, PromptedModel]:
    """Return a model of some tasks alone, and one of all others; `merge` puts them together.

    Nothing is forgotten by it, so the `removed` of both is that of `model`.

    Args:
        model: as for `forget`; it stays as it is.
        tasks: the numbers of the tasks of the first one, each once; in it they keep the order in
            which they were learned.

    Raises:
        StateError, PoolError: as for `forget`; or a task that is named twice.
    """
    some = numbers_of(model, tasks)
    others = [task for task in range(len(model.tasks)) if task not in some]
    return kept(model, some), kept(model, others)


@torch.no_grad()
def kept(model: PromptedModel, tasks: Sequence[int]) -> PromptedModel:
    """Return a model of some tasks alone, in the order in which they were learned.

    Raises:
        StateError, PoolError: as for `forget`.
    """
    check_separable(model)
    made = copy.deepcopy(model)
    for task in reversed(range(len(model.tasks))):
        if task not in tasks:
            _take_out(made, task)
    return made


def numbers_of(model: PromptedModel, tasks: Iterable[Any]) -> list[int]:
    """Return the numbers of tasks of a model, in the order given.

    Raises:
        StateError: one is no whole number, no task of the model, or named twice.
    """
    numbers = []
    for task in tasks:
        whole = isinstance(task, int | np.integer) and not isinstance(task, bool)
        if not whole or not 0 <= task < len(model.tasks):
            raise StateError(
                expected=f"a task from 0 to {len(model.tasks) - 1}",
                got=f"task {task}" if whole else f"{task!r} of type {type(task).__name__}",
                remedy="Name a task that was learned." if whole else "Give a task by its number.",
            )
        numbers.append(int(task))
    if len({*numbers}) != len(numbers):
        raise StateError(
            expected="each task once", got=f"{numbers}", remedy="Leave the repeated one out."
        )
    return numbers


def _take_out(model: PromptedModel, task: int) -> list[str]:
    """Take a task out of a model, and return the names of its slots."""
    tasks = list(model.tasks)
    _check_session(model, task)
    apart = [branch for branch in model.prompter or () if not branch.lasting]
    gone = [name for branch in apart for name in branch.forget(task)]
    _forget_in_head(model, task)
    for branch in model.prompter or ():
        if branch.lasting:  # after the head, which asks the router whose task it was
            branch.forget(task)
    model.tasks = [classes for number, classes in enumerate(tasks) if number != task]
    restarted(model)
    for rule in model.each_rule():
        rule.forget(model, task, tasks)
    restarted(model)
    return gone


def _check_session(model: PromptedModel, task: int) -> None:
    """Refuse to forget the task on which a prompt was trained that others use.

    Raises:
        StateError: naming the slot.
    """
    branches = [branch for branch in model.prompter or () if branch.lasting]
    trained = isinstance(model.head, SessionHead) and model.head.sessions != 0
    if not branches or not trained:
        return
    router = domain_router(model)
    slot = 0 if router is None else router.slot_of[task]
    first = 0 if router is None else router.slot_of.index(slot)
    if first == task:
        raise StateError(
            expected="a task that trained no prompt",
            got=f"task {task}, on which slot {slot} was trained",
            remedy="Train the prompt on data that may stay, or learn the stream anew without it.",
        )


def _forget_in_head(model: PromptedModel, task: int) -> None:
    """Let the head forget a task: of heads by domain, the one that has it."""
    head, router = lasting_head(model), domain_router(model)
    if router is None or not isinstance(head, ExpertHead):
        model.head.forget(task, model.tasks)
        return
    slot = router.slot_of[task]
    mine = [number for number, other in enumerate(router.slot_of) if other == slot]
    groups = [model.tasks[number] for number in mine]
    head.expert(slot).forget(mine.index(task), groups)
    head.without(task, model.tasks)
    if isinstance(model.head, SessionHead):
        model.head.classes, model.head.groups = head.classes, head.groups
