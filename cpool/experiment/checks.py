"""What is checked of every method before anything trains: what would only fail later."""

from cpool.errors import ConfigError
from cpool.learner import Learner
from cpool.methods import Method
from cpool.streams import Stream

__all__ = ["check_row"]


def check_row(method: Method, learner: Learner, stream: Stream) -> None:
    """Refuse a method that cannot work on a stream.

    Args:
        method: with its hyper-parameters.
        learner: a new one of this method.
        stream: what it shall learn.

    Raises:
        ConfigError: prompts longer than the model, or a method that must be told the task of a
            test sample on a stream that does not tell it.
        DataError: tasks that its training cannot use.
    """
    _check_task_known(method, stream)
    learner._max_tokens()
    for task in stream:
        learner._check_trainable(task.classes, task.name)


def _check_task_known(method: Method, stream: Stream) -> None:
    inner = getattr(method, "inner", method)  # joint training is of another method
    if inner.needs_task and stream.scenario != "task":
        raise ConfigError(
            expected=f"a stream that tells the task of a test sample (scenario 'task') for the "
            f"method {inner.name!r}",
            got=f"{stream.name}, which is {stream.scenario}-incremental and tells none",
            remedy='Set stream.scenario = "task" where the stream has it, or leave the method out: '
            "its numbers with the task known do not compare with those of the others.",
        )
