"""What is checked of every method before anything trains: what would only fail later."""

from cpool.demands import check_told, check_trainable
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
    check_told(learner.model, stream)
    learner.model.max_tokens()
    if method.joint:  # its only task has all classes, whatever each of the stream has
        check_trainable(learner.model, learner.train, stream.class_order, "joint", 0)
        return
    for task in stream:
        check_trainable(learner.model, learner.train, task.classes, task.name, 0)
