"""Streams of tasks over images and texts, and the splits that they are made of."""

from cpool.streams.base import Examples, Stream, Task
from cpool.streams.digits import permuted_digits, rotated_digits, split_digits
from cpool.streams.paths import ImagePaths
from cpool.streams.scenarios import class_incremental, domain_incremental, task_incremental

__all__ = [
    "Examples",
    "ImagePaths",
    "Stream",
    "Task",
    "class_incremental",
    "domain_incremental",
    "permuted_digits",
    "rotated_digits",
    "split_digits",
    "task_incremental",
]
