"""What a prompted model refuses: parts that do not fit, wrong labels, calls out of turn."""

from collections.abc import Sequence

from torch import Tensor

from cpool.backbones import Backbone
from cpool.errors import BackboneError, ConfigError, DataError, StateError
from cpool.heads import Head
from cpool.inject._checks import check_encodes
from cpool.inject.prefix import attention_layers
from cpool.prompter import Prompter

__all__ = ["check_capacity", "check_layers", "checked_labels", "class_labels", "need_task"]


def class_labels(classes: Sequence[int]) -> list[int]:
    """Return the classes of a task in order, each once."""
    if not classes or any(isinstance(c, float) for c in classes):
        raise DataError(
            expected="at least one class label, whole numbers",
            got=repr(list(classes)),
            remedy="Pass the labels that occur in the task.",
        )
    return sorted({int(c) for c in classes})


def checked_labels(labels: Tensor) -> Tensor:
    """Return the labels of a batch if they can be such."""
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            expected='batch["labels"] of whole numbers, [B]',
            got=f"{labels.dtype} {tuple(labels.shape)}",
            remedy="Pass the class of each sample as an int64 tensor.",
        )
    return labels


def need_task(begun: bool) -> None:
    """Refuse what needs a task that was begun."""
    if not begun:
        raise StateError(
            expected="a model that has begun at least one task",
            got="a new model",
            remedy="Call fit_task of the learner, or begin_task of the model, first.",
        )


def check_layers(backbone: Backbone, prompter: Prompter | None, words: bool) -> None:
    """Refuse prefixes on layers that the model lacks, when the model is built.

    Args:
        backbone: the model.
        prompter: the prompts; None for none.
        words: whether what is read are the words of its answer, and not features.
    """
    for branch in prompter or ():
        layers = getattr(branch.site, "layers", ())
        if not words:
            check_encodes(backbone, layers)
        wrong = [layer for layer in layers if not 0 <= layer < backbone.prefix_layers]
        if wrong:
            raise BackboneError(
                expected=f"layers from 0 to {backbone.prefix_layers - 1} of {backbone.name}",
                got=f"layers {wrong} in branch {branch.name!r}",
                remedy="Choose layers that the model has.",
            )
        if layers:
            attention_layers(backbone)  # refuses models whose attention cannot be reached


def check_capacity(head: Head, prompter: Prompter | None, apart: bool) -> None:
    """Refuse eviction where the head knows slots by their place, when the model is built."""
    full = [branch.name for branch in prompter or () if branch.capacity is not None]
    if full and (head.routed or apart):
        kind = "one pass a slot" if apart else "a head that is routed by slot"
        raise ConfigError(
            expected="a pool that keeps all of its slots, since the head knows each by its place",
            got=f"a capacity in branch {full[0]!r} together with {kind}",
            remedy="Leave the capacity out, or use a head of all classes such as LinearHead.",
        )
