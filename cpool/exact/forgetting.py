"""Forgetting: a model as if it had never seen a task."""

import copy
from collections.abc import Sequence
from datetime import datetime, timezone

import torch

from cpool.errors import StateError
from cpool.exact.parts import check_separable, domain_router, lasting_head, restarted
from cpool.heads import ExpertHead, SessionHead
from cpool.model import PromptedModel

__all__ = ["forget", "split"]


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
    if not 0 <= task < len(model.tasks):
        raise StateError(
            expected=f"a task from 0 to {len(model.tasks) - 1}",
            got=f"task {task}",
            remedy="Name a task that was learned.",
        )
    check_separable(model)
    made = copy.deepcopy(model)
    tasks = list(model.tasks)
    _check_session(made, task)
    apart = [branch for branch in made.prompter or () if not branch.lasting]
    gone = [name for branch in apart for name in branch.forget(task)]
    _forget_in_head(made, task)
    for branch in made.prompter or ():
        if branch.lasting:  # after the head, which asks the router whose task it was
            branch.forget(task)
    made.tasks = [classes for number, classes in enumerate(tasks) if number != task]
    restarted(made)
    for rule in made.each_rule():
        rule.forget(made, task, tasks)
    made.removed = [*model.removed, {"task": task, "classes": list(tasks[task]), "slots": gone}]
    made.removed[-1]["when"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return restarted(made)


def split(model: PromptedModel, tasks: Sequence[int]) -> tuple[PromptedModel, PromptedModel]:
    """Return a model of some tasks alone, and one of all others; `merge` puts them together.

    Args:
        model: as for `forget`; it stays as it is.
        tasks: the numbers of the tasks of the first one, each once.

    Raises:
        StateError, PoolError: as for `forget`; or a task that is named twice.
    """
    if len({*tasks}) != len(tasks):
        raise StateError(
            expected="each task once", got=f"{list(tasks)}", remedy="Leave the repeated one out."
        )
    some = others = model
    for task in reversed(range(len(model.tasks))):
        if task in tasks:
            others = forget(others, task)
        else:
            some = forget(some, task)
    unknown = sorted({*tasks} - {*range(len(model.tasks))})
    if unknown:
        forget(model, unknown[0])  # raises
    return some, others


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
