"""The parts of a model by which tasks are merged and forgotten, and what is not among them."""

from typing import Any

from cpool.errors import StateError
from cpool.heads import Head, SessionHead
from cpool.model import PromptedModel
from cpool.policies import DomainRouter

__all__ = ["check_separable", "domain_router", "lasting_head", "restarted"]


def check_separable(model: PromptedModel) -> None:
    """Refuse a model whose tasks share what no part of it can take apart.

    Raises:
        StateError: weights that all tasks train, one task of all, or classes that compete in
            training with those of other tasks.
    """
    why = ""
    if getattr(model.method, "joint", False):
        why = "one that learns all tasks at once"
    elif model.trunk is not None:
        why = "one whose backbone all tasks train"
    elif model.mask != "task" and _trains(model):
        why = f"one in which all classes seen compete in training (mask={model.mask!r})"
    if why:
        raise StateError(
            expected="a method in which what a task learns depends on no other task",
            got=f"{name_of(model)}, {why}",
            remedy="Learn the tasks in sequence instead, with those that shall be known.",
        )


def _trains(model: PromptedModel) -> bool:
    branches = [branch for branch in model.prompter or () if not branch.lasting]
    return bool(branches) or any(True for _ in lasting_head(model).parameters())


def name_of(model: PromptedModel) -> str:
    """Return what a model's method is called, for an error."""
    return str(getattr(model.method, "name", type(model.head).__name__))


def lasting_head(model: PromptedModel) -> Head:
    """Return the head that answers, without what a session of training puts before it."""
    return model.head.lasting if isinstance(model.head, SessionHead) else model.head


def domain_router(model: PromptedModel) -> DomainRouter | None:
    """Return the policy that gives tasks a slot by their domain; None where there is none."""
    for branch in model.prompter or ():
        if isinstance(branch.policy, DomainRouter):
            return branch.policy
    return None


def restarted(model: PromptedModel) -> PromptedModel:
    """Return a model whose prompter counts the tasks that it has now."""
    if model.prompter is not None:
        model.prompter.started = list(range(len(model.tasks)))
    model.eval()
    return model


def described(model: PromptedModel) -> dict[str, Any]:
    """Return what two models have to have in common."""
    method = {} if model.method is None else model.method.hyper_parameters()
    return {
        "method": name_of(model),
        **method,
        "backbone": model.backbone.fingerprint,
        "competing classes": model.mask,
        "parts": [
            type(model.head).__name__,
            *(type(rule).__name__ for rule in model.rules),
            *(
                (b.name, type(b.pool).__name__, type(b.policy).__name__)
                for b in model.prompter or ()
            ),
        ],
    }
