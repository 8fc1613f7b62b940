"""Streams of tasks over images and texts: seeded, checked, fingerprinted."""

from cpool.streams.base import Examples, Stream, Task
from cpool.streams.clinc import clinc150, clinc150_out_of_scope
from cpool.streams.digits import permuted_digits, rotated_digits, split_digits
from cpool.streams.domains import domain_incremental
from cpool.streams.folder import image_folder
from cpool.streams.images import split_cifar100_small, split_fashion_mnist
from cpool.streams.paths import ImagePaths
from cpool.streams.registry import STREAMS, StreamInfo, load_stream
from cpool.streams.scenarios import class_incremental, task_incremental
from cpool.streams.table import text_file
from cpool.streams.text import banking77

__all__ = [
    "STREAMS",
    "Examples",
    "ImagePaths",
    "Stream",
    "StreamInfo",
    "Task",
    "banking77",
    "class_incremental",
    "clinc150",
    "clinc150_out_of_scope",
    "domain_incremental",
    "image_folder",
    "load_stream",
    "permuted_digits",
    "rotated_digits",
    "split_cifar100_small",
    "split_digits",
    "split_fashion_mnist",
    "task_incremental",
    "text_file",
]
