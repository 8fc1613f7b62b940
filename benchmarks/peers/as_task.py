"""A task of a stream of cpool, from the arrays that all libraries get."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cpool.data import as_examples
from cpool.streams import Task

__all__ = ["as_task"]


def as_task(index: int, content: dict[str, Any], classes: Sequence[int]) -> Task:
    """Return task number `index` of inputs and labels for training and test."""
    train = as_examples((content["x"], np.asarray(content["y"])))
    test = as_examples((content["x_test"], np.asarray(content["y_test"])))
    return Task(index, f"task {index}", tuple(classes), train, train.take([]), test)
