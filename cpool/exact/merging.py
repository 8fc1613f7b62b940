"""Merging: tasks that were learned apart, in one model, as if learned one after the other."""

import copy
from collections.abc import Sequence
from functools import reduce

import torch

from cpool.errors import StateError
from cpool.exact.forgetting import kept, numbers_of
from cpool.exact.parts import check_separable, described, restarted
from cpool.model import PromptedModel

__all__ = ["branch_off", "copy_slots", "merge"]


@torch.no_grad()
def branch_off(model: PromptedModel) -> PromptedModel:
    """Return a model that has learned no task yet, with all that tasks have in common.

    Hand it to another worker, let it learn other tasks there, and `merge` the two. A prompt that
    the first task trained for all stays, and is not trained again; so do random features.

    Raises:
        StateError, PoolError: a method whose tasks depend on each other.
    """
    check_separable(model)
    made = copy.deepcopy(model)
    for branch in made.prompter or ():
        branch.clear()
    for rule in made.each_rule():
        rule.clear()
    made.head.clear()
    made.tasks, made.removed = [], []
    return restarted(made)


@torch.no_grad()
def merge(first: PromptedModel, second: PromptedModel) -> PromptedModel:
    """Return one model that has learned the tasks of `first`, then those of `second`.

    It equals a model that learned all of them in sequence, provided that a task draws the same
    random numbers there: give the learner of `second` the number of its first task in the whole
    stream (`Learner(…, first=len(first.tasks))`), and the same `seed` and training settings. A
    model does not know how it was trained, so other ones are not noticed here.

    Args:
        first: after its tasks.
        second: built alike (see `branch_off`), after tasks of its own.

    Raises:
        StateError, PoolError: backbone, method, the seed of random features or shared prompts
            differ, or a method whose tasks depend on each other.

    >>> import cpool, numpy
    >>> model = cpool.NCM().build(cpool.load_backbone("embedded"))
    >>> other = branch_off(model)
    >>> images = numpy.random.default_rng(0).integers(0, 255, (4, 8, 8), dtype=numpy.uint8)
    >>> cpool.Learner(model, quiet=True).fit_task((images[:2], [0, 1]))
    >>> cpool.Learner(other, quiet=True).fit_task((images[2:], [2, 3]))
    >>> merge(model, other).tasks
    [(0, 1), (2, 3)]
    """
    for model in (first, second):
        check_separable(model)
    _check_alike(first, second)
    made = copy.deepcopy(first)
    tasks = len(first.tasks)
    for mine, other in zip(made.prompter or (), second.prompter or (), strict=True):
        mine.join(other, tasks)
    made.head.join(second.head)
    made.tasks = [*first.tasks, *second.tasks]
    restarted(made)
    for rule, other_rule in zip(made.each_rule(), second.each_rule(), strict=True):
        rule.join(made, other_rule, tasks)
    # Parts of one model both know what it forgot.
    new = [record for record in second.removed if record not in first.removed]
    made.removed = copy.deepcopy([*first.removed, *new])
    return restarted(made)


def copy_slots(
    source: PromptedModel, target: PromptedModel, tasks: Sequence[int] | None = None
) -> PromptedModel:
    """Return `target` with tasks of `source` after its own: slots, keys, classes and heads.

    Args:
        source: from which they are copied; it stays as it is.
        target: built alike.
        tasks: their numbers in `source`, each once, in the order in which they come in the model
            returned; all by default.

    Raises:
        StateError, PoolError: as for `merge`, and where only some tasks are copied, or in another
            order, as for `split`.
    """
    wanted = numbers_of(source, range(len(source.tasks)) if tasks is None else tasks)
    if wanted == list(range(len(source.tasks))):
        return merge(target, source)
    # A part has its tasks in the order in which they were learned; another one takes a part each.
    parts = [wanted] if wanted == sorted(wanted) else [[task] for task in wanted]
    return reduce(merge, (kept(source, part) for part in parts), target)


def _check_alike(first: PromptedModel, second: PromptedModel) -> None:
    """Refuse models that could not have been one.

    Raises:
        StateError: naming what differs.
    """
    one, two = described(first), described(second)
    keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
    if "method" in keys:  # then the rest says nothing more
        keys = ["method"]
    if "backbone" in keys:  # names say more than fingerprints
        names = [f"{m.backbone.name} ({m.backbone.fingerprint[:12]})" for m in (first, second)]
        one["backbone"], two["backbone"] = names
    if keys:
        raise StateError(
            expected="two models of the same method, hyper-parameters and backbone",
            got=", ".join(f"{key} {one.get(key)} and {two.get(key)}" for key in keys),
            remedy="Let both start from one model: branch_off(model).",
        )
