"""A fixed selection: the slots that every sample gets, checked, and the prompts they make."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from cpool.backbones import Backbone
from cpool.errors import BackboneError, ConfigError, PoolError, unknown
from cpool.policies import GaussianRouter, NearestCentroid, TopK
from cpool.prompter import Branch, Prompter, Prompts, sorted_prompts
from cpool.selection import Selection

__all__ = ["Slots", "fixed_prompts", "fixed_selections", "refuse_live"]

Slots: TypeAlias = Mapping[str, Sequence[int] | Mapping[int, float]]

# Policies that, told a task, give every sample the slots of the task, one after the other.
_TOLD = (GaussianRouter, NearestCentroid, TopK)


def refuse_live(prompter: Prompter) -> None:
    """Refuse branches whose query comes from inside the prompted pass.

    Raises:
        BackboneError: with their names.
    """
    if live := [branch.name for branch in prompter if branch.live]:
        raise BackboneError(
            expected="prompts that are there before the pass",
            got=f"branches {live}, whose prompts are made inside of it",
            remedy="Export a method with a query of its own, such as dualprompt.",
        )


def fixed_selections(
    prompter: Prompter | None, slots: Slots | None, task: int | None
) -> dict[str, Selection]:
    """Return for each branch the selection that every sample gets, index [1 K].

    Args:
        prompter: of the model; None where there are no prompts.
        slots: branch name → slot numbers in their order, or slot → weight where they are summed.
        task: whose slots fill the branches that `slots` does not name.

    Raises:
        ConfigError: a branch of another name, or one whose slots would depend on the query.
        PoolError: a slot that is not there, is disabled, or was never trained; or none.
    """
    branches = {} if prompter is None else {branch.name: branch for branch in prompter}
    for name in slots or {}:
        if name not in branches:
            raise unknown("branch", name, branches)
    made = {}
    for name, branch in branches.items():
        if slots is not None and name in slots:
            made[name] = _named(branch, slots[name])
        elif not branch.policy.needs_query:
            made[name] = branch.policy(None, task, branch.pool.available(training=False))
        else:
            made[name] = _of_task(branch, task)
    return made


def _named(branch: Branch, chosen: Sequence[int] | Mapping[int, float]) -> Selection:
    numbers = [branch.pool.check_slot(slot) for slot in chosen]
    free = branch.pool.available(training=False)
    bad = [slot for slot in numbers if not free[slot]]
    if bad or not numbers or len(set(numbers)) != len(numbers):
        raise PoolError(
            expected=f"slots of branch {branch.name!r} that were trained and are enabled, each "
            f"once ({free.nonzero()[:, 0].tolist()})",
            got=f"{list(chosen)}",
            remedy="List the slots with `pool.slots` or `cpool inspect`.",
        )
    index = torch.tensor([numbers], device=free.device)
    weight = None
    if isinstance(chosen, Mapping):
        weight = torch.tensor([list(chosen.values())], device=free.device)
    return _selection(branch, index, weight)


def _of_task(branch: Branch, task: int | None) -> Selection:
    policy, number = branch.policy, branch.policy.chosen(len(branch.pool))
    own = policy.own(task) & branch.pool.available(training=False)
    index = own.nonzero()[:, 0]
    if task is None or not isinstance(policy, _TOLD) or len(index) != number:
        got = "neither slots nor a task" if task is None else f"{len(index)} for task {task}"
        raise ConfigError(
            expected=f"the slots of branch {branch.name!r}, of which a sample gets {number}",
            got=got,
            remedy=f"Name them: slots={{{branch.name!r}: [0]}}; or {{0: 0.5, 1: 0.5}} where the "
            "policy sums them.",
        )
    return _selection(branch, index[None], None)


def _selection(branch: Branch, index: Tensor, weight: Tensor | None) -> Selection:
    fits = branch.policy.fits(index[:, :1])
    return Selection(index, weight, torch.zeros((), device=index.device), None, fits)


@torch.no_grad()
def fixed_prompts(
    backbone: Backbone, prompter: Prompter | None, selections: Mapping[str, Selection]
) -> Prompts | None:
    """Return the prompts of a fixed selection, a batch of 1; None where the slots have none.

    Raises:
        BackboneError: prompts behind a start token, which the text of a program has in front.
    """
    if prompter is None:
        return None
    if any(s.fits is not None and not bool(s.fits.all()) for s in selections.values()):
        return None  # as in `Passes.run`: samples that no slot fits run without any prompt
    read = []
    for branch in prompter:
        values, selection = branch.read(selections[branch.name])
        read.append((branch.site, values, selection.real))
    made = sorted_prompts(read, torch.zeros(()), selections)
    if made.after_start and backbone.start_token is not None:
        raise BackboneError(
            expected="prompts in front of a text, to be run as one pass",
            got=f"prompts behind the start token of a text for {backbone.name!r}",
            remedy="Use sites with after_start=False.",
        )
    return made
