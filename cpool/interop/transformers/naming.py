"""Tasks of free text have names; to the parts below each is one class."""

from collections.abc import Mapping
from typing import Any

from cpool.errors import DataError
from cpool.language import LabelWords, readable
from cpool.model import PromptedModel
from cpool.readout import LabelReadout

__all__ = ["class_named"]


def class_named(model: PromptedModel, names: Mapping[str, str], task: Any) -> int:
    """Return the class that stands for a new task, the next number that is free.

    Where labels are scored by their words, the class is called as the task.

    Args:
        model: of labels or completions.
        names: task number → name, of tasks that had one.
        task: the name of the new one.

    Raises:
        DataError: no name, one without words, or that of an earlier task.
    """
    if not isinstance(task, str) or not readable(task):
        raise DataError(
            expected="the name of a task, such as 'capitals'",
            got=repr(task),
            remedy="A language model learns completions, which have no classes.",
        )
    number = max(model.classes, default=-1) + 1
    if isinstance(model.readout, LabelReadout):
        return _called(model.readout.words, number, task)
    if readable(task) in names.values():
        raise DataError(
            expected="tasks each of another name",
            got=f"{task!r}, the same as an earlier one",
            remedy="Give it another name.",
        )
    return number


def _called(words: LabelWords, number: int, task: str) -> int:
    """Call a class as a task, and return its number: `number`, or the next that has no name."""
    named = words.names
    if (named or ())[number : number + 1] != (readable(task),):
        if readable(task) in (named or ()):
            raise DataError(
                expected="a task that is called otherwise than every class and task before it",
                got=f"{task!r}, the same words as one of them",
                remedy="Give the task another name.",
            )
        words.more([task])
        number = len(words.names or ()) - 1
    try:
        words.expect([number])
    except DataError:
        words.names = named
        raise
    return number
