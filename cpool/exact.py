"""Merging models that learned different tasks, and forgetting a task, where both are exact.

Exact means: equal to having learned the tasks in sequence, and equal to never having seen the
task, in every weight up to the rounding of float64 sums. Only closed-form statistics that add up
allow it, over prompts that both models share and that the task did not train.
"""

import copy
from collections.abc import Iterator

import torch

from cpool.errors import StateError
from cpool.heads import ExpertHead, Head, SessionHead
from cpool.model import PromptedModel
from cpool.policies import DomainRouter
from cpool.ridge import RidgeHead, forget_task, merge_heads

__all__ = ["branch_off", "forget", "merge"]


def branch_off(model: PromptedModel) -> PromptedModel:
    """Return a model with the same frozen prompts that has learned no task yet.

    Hand it to another worker, let it learn other tasks there, and `merge` the two.

    Raises:
        StateError: a method whose statistics do not add up.
    """
    made = copy.deepcopy(model)
    for head in list(_ridges(made)):
        head.restore(
            {"groups": [], "rows": [], "gram": 0, "kept": None if head.kept is None else []}
        )
        for name in ("cross", "weight"):
            setattr(head, name, head.get_buffer(name).new_zeros(head.width, 0))
    _sync(made)
    router = _router(made)
    if router is not None:
        while router.slot_of:
            if router.forgettable:
                router.forget(len(router.slot_of) - 1)
            else:
                router.slot_of.pop()
        router.keys, router.counts = [], router.get_buffer("counts")[:0].clone()
        router.sums = router.get_buffer("sums")[:0].clone()
        router.get_buffer("moment").zero_()
    made.tasks = []
    _restart(made)
    for branch in made.prompter or ():
        branch.growing = False  # the prompts are there, and are not trained again
    if isinstance(made.head, SessionHead):
        made.head.training_session = False
    return made


def merge(first: PromptedModel, second: PromptedModel) -> PromptedModel:
    """Return one model that has learned the tasks of `first`, then those of `second`.

    Args:
        first: after its tasks.
        second: with the same prompts (see `branch_off`), after tasks of its own.

    Raises:
        StateError: the prompts, seeds or hyper-parameters differ, or the method's statistics do
            not add up.
    """
    _check_prompts(first, second)
    _check_shared(first, set(first.classes) & set(second.classes), "merge")
    made = copy.deepcopy(first)
    for mine, other in zip(_ridges(made), _ridges(second), strict=True):
        merge_heads(mine, other)
    _sync(made)
    router, other_router = _router(made), _router(second)
    if router is not None and other_router is not None:
        _merge_routers(router, other_router)
    made.tasks = [*first.tasks, *second.tasks]
    _restart(made)
    return made


def forget(model: PromptedModel, task: int) -> PromptedModel:
    """Return a model that equals one that never saw a task.

    Args:
        model: of a method built with `forgettable=True`.
        task: its number.

    Raises:
        StateError: the task trained a prompt that others use, nothing is kept of it, or the
            method's statistics do not add up.
    """
    if not 0 <= task < len(model.tasks):
        raise StateError(
            expected=f"a task from 0 to {len(model.tasks) - 1}",
            got=f"task {task}",
            remedy="Name a task that was learned.",
        )
    made = copy.deepcopy(model)
    router = _router(made)
    heads = list(_ridges(made))
    others = {c for t, classes in enumerate(made.tasks) if t != task for c in classes}
    _check_shared(made, others & set(made.tasks[task]), f"forget task {task} of")
    slot = 0 if router is None else router.slot_of[task]
    trained = isinstance(made.head, SessionHead) and made.head.sessions != 0
    first = task if router is None else router.slot_of.index(slot)
    if trained and first == task and (router is not None or task == 0):
        raise StateError(
            expected="a task that trained no prompt",
            got=f"task {task}, on which slot {slot} was trained",
            remedy="Train the prompt on data that may stay, or learn the stream anew without it.",
        )
    mine = sum(1 for t in range(task) if router is None or router.slot_of[t] == slot)
    forget_task(heads[slot], mine)
    if router is not None:
        router.forget(task)
    made.tasks.pop(task)
    _sync(made)
    _restart(made)
    return made


def _check_shared(model: PromptedModel, shared: set[int], what: str) -> None:
    """Refuse what would have changed a decision about domains, had it been known."""
    if shared and getattr(model.method, "domains", None) == "auto":
        raise StateError(
            expected='classes that no other task has, with domains="auto"',
            got=f"{what} tasks that share classes {sorted(shared)}",
            remedy="Whether such a task gets a slot depends on what came before it. Use "
            'domains="one" or "task".',
        )


def _restart(model: PromptedModel) -> None:
    if model.prompter is not None:
        model.prompter.started = list(range(len(model.tasks)))


def _lasting(model: PromptedModel) -> Head:
    return model.head.lasting if isinstance(model.head, SessionHead) else model.head


def _ridges(model: PromptedModel) -> Iterator[RidgeHead]:
    """Iterate over the ridge heads of a model, by slot.

    Raises:
        StateError: its head is none.
    """
    head = _lasting(model)
    heads = list(head.experts) if isinstance(head, ExpertHead) else [head]
    for part in heads:
        if not isinstance(part, RidgeHead):
            name = getattr(model.method, "name", type(head).__name__)
            raise StateError(
                expected="a method whose statistics add up over tasks (prompt_ridge, ranpac)",
                got=f"{name}, whose values tasks share",
                remedy="Learn the tasks in sequence instead.",
            )
        yield part


def _router(model: PromptedModel) -> DomainRouter | None:
    for branch in model.prompter or ():
        if isinstance(branch.policy, DomainRouter):
            return branch.policy
    return None


def _sync(model: PromptedModel) -> None:
    """Bring the classes of the outer heads in line with those of the ridge heads."""
    head = _lasting(model)
    if isinstance(head, ExpertHead):
        named: list[int] = []
        for part in _ridges(model):
            named += [c for c in part.classes if c not in named]
        head.classes[:] = named
        head.groups[:] = [named] if named else []
    if isinstance(model.head, SessionHead):
        model.head.classes, model.head.groups = head.classes, head.groups


def _merge_routers(mine: DomainRouter, other: DomainRouter) -> None:
    for task, slot in enumerate(other.slot_of):
        mine.slot_of.append(slot)
        if mine.forgettable and other.forgettable:
            names = ("counts", "sums", "moment")
            share = [other.get_buffer(f"kept_{name}_{task}").clone() for name in names]
            mine.keep(len(mine.slot_of) - 1, *share)
            mine.shares.append(dict(other.shares[task]))
    for row, (slot, label) in enumerate(other.keys):
        count, total = other.get_buffer("counts")[row], other.get_buffer("sums")[row]
        nothing = torch.zeros_like(mine.get_buffer("moment"))
        mine.add(slot, [label], count[None], total[None], nothing)
    mine.get_buffer("moment").add_(other.get_buffer("moment"))


def _check_prompts(first: PromptedModel, second: PromptedModel) -> None:
    one, two = first.method.hyper_parameters(), second.method.hyper_parameters()
    differ = [f"{key} {one[key]} and {two.get(key)}" for key in one if one[key] != two.get(key)]
    if first.backbone.fingerprint != second.backbone.fingerprint:
        differ.append("backbone")
    pools = [[b.pool.values() for b in m.prompter or ()] for m in (first, second)]
    same = len(pools[0]) == len(pools[1]) and all(
        a.shape == b.shape and bool(torch.equal(a, b)) for a, b in zip(*pools, strict=True)
    )
    if not same:
        differ.append("prompts")
    bare = [[b.policy.bare for b in m.prompter or ()] for m in (first, second)]
    if bare[0] != bare[1]:
        differ.append("slots without a prompt")
    if differ:
        raise StateError(
            expected="two models of the same prompts, backbone and hyper-parameters",
            got=f"different {', '.join(differ)}",
            remedy="Let both start from one model: branch_off(model).",
        )
