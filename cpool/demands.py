"""What a model and its training demand of a stream, checked before anything is computed."""

from collections.abc import Sequence
from typing import Any

from cpool.errors import CheckpointError, ConfigError, DataError
from cpool.model import PromptedModel
from cpool.settings import TrainSettings
from cpool.streams import Stream

__all__ = ["check_answerable", "check_same", "check_told", "check_trainable"]


def check_told(model: PromptedModel, stream: Stream) -> None:
    """Refuse a method that must be told the task where the stream does not tell it."""
    inner = _must_be_told(model)
    if inner is not None and stream.scenario != "task":
        raise ConfigError(
            expected=f"a stream that tells the task of a test sample (scenario 'task') for the "
            f"method {inner.name!r}",
            got=f"{stream.name}, which is {stream.scenario}-incremental and tells none",
            remedy='Set stream.scenario = "task" where the stream has it, or leave the method '
            "out: its numbers with the task known do not compare with those of the others.",
        )


def check_answerable(model: PromptedModel, told: bool) -> None:
    """Refuse an answer of a method that must be told the task, where nobody told it."""
    inner = _must_be_told(model)
    if inner is not None and not told and len(model.tasks) > 1:
        raise ConfigError(
            expected=f"the task of the samples, which the method {inner.name!r} must be told",
            got=f"none, with {len(model.tasks)} tasks learned",
            remedy="Pass predict(x, task=…) or evaluate(…, told=True), or build the method with "
            "known_task=False.",
        )


def check_trainable(
    model: PromptedModel, train: TrainSettings, classes: Sequence[int], name: str, task: int
) -> None:
    """Refuse a task from whose classes nothing can be learned as training is set."""
    alone = model.head.competes and train.mask == "task" and len(set(classes)) < 2
    if alone and not train.anchor and model.trains(task):
        raise DataError(
            expected="at least two classes a task when mask is 'task'",
            got=f"{len(set(classes))} in {name!r}",
            remedy="Make larger tasks, or train with mask='seen' or an anchor.",
        )


def check_same(begun: dict[str, Any] | None, stream: Stream) -> dict[str, Any]:
    """Return what identifies a stream; refuse another one than that which was begun."""
    now = {
        "name": stream.name,
        "fingerprint": stream.fingerprint,
        "tasks": [list(task.classes) for task in stream],
    }
    if begun is not None and begun != now:
        raise CheckpointError(
            expected=f"the stream that was begun, {_say(begun)}",
            got=_say(now),
            remedy="Use the same data, seed and number of tasks, or choose another folder.",
        )
    return now


def _must_be_told(model: PromptedModel) -> Any:
    """Return the method that must be told the task at test; None where nobody must."""
    inner = getattr(model.method, "inner", model.method)  # joint is of another one
    return inner if inner is not None and inner.needs_task else None


def _say(stream: dict[str, Any]) -> str:
    return f"{stream['name']} ({stream['fingerprint'][:12]}, tasks {stream['tasks']})"
