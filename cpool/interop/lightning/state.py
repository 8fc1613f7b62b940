"""What a checkpoint of Lightning holds beside the tensors, and whether it fits a module."""

from collections.abc import Mapping
from typing import Any

from cpool.checkpoint import check_backbone, describe_method, words_of
from cpool.errors import CheckpointError
from cpool.model import PromptedModel

__all__ = ["KEY", "check_entry", "check_running", "entry_of"]

KEY = "cpool"


def entry_of(prompted: PromptedModel, running: bool, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values that make a model again, for `KEY` of a checkpoint.

    Args:
        prompted: the model.
        running: whether a task has begun and not ended.
        settings: how it is trained, and the seed.
    """
    return {
        "method": prompted.method and describe_method(prompted.method),
        "backbone": dict(prompted.backbone.spec()),
        "words": words_of(prompted),
        "layout": prompted.layout(),
        "running": running,
        "settings": dict(settings),
    }


def check_entry(checkpoint: Mapping[str, Any], prompted: PromptedModel) -> dict[str, Any]:
    """Return the entry of a checkpoint of the same method on the same backbone.

    Raises:
        CheckpointError: a checkpoint without an entry, or of something else; both are named.
    """
    entry: dict[str, Any] | None = checkpoint.get(KEY)
    if entry is None:
        raise CheckpointError(
            expected="a checkpoint of a PromptModule",
            got=f"one with {', '.join(sorted(checkpoint))}",
            remedy="Name a file that a Trainer wrote while it trained a PromptModule.",
        )
    check_backbone(entry, prompted)
    now = prompted.method and describe_method(prompted.method)
    if entry["method"] != now:
        raise CheckpointError(
            expected=f"the method of the checkpoint, {entry['method']}",
            got=f"{now}",
            remedy="Build the model with the same method and hyper-parameters.",
        )
    return entry


def check_running(
    entry: Mapping[str, Any], prompted: PromptedModel, settings: Mapping[str, Any]
) -> None:
    """Refuse to go on amid a task with another task, or with other settings.

    Args:
        entry: of a checkpoint that was written while a task was running.
        prompted: a model that has begun that task.
        settings: how it is trained, and the seed.

    Raises:
        CheckpointError: what differs.
    """
    then, now = entry["layout"]["tasks"], [list(classes) for classes in prompted.tasks]
    if then != now:
        raise CheckpointError(
            expected=f"a model in the middle of task {len(then) - 1}, after classes {then[:-1]}",
            got=f"one that has begun tasks with the classes {now}",
            remedy="Load the model as it was before the task (PromptModule.load_from_checkpoint), "
            "then call fit with the same TaskCallback and this ckpt_path.",
        )
    differ = [k for k, v in settings.items() if entry["settings"].get(k) != v]
    if differ:
        raise CheckpointError(
            expected=", ".join(f"{k}={entry['settings'].get(k)}" for k in differ),
            got=", ".join(f"{k}={settings[k]}" for k in differ),
            remedy="Go on amid a task with the same training settings and seed.",
        )
