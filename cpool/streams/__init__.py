"""Streams of tasks over images and texts: seeded, checked, fingerprinted."""

from cpool.streams.base import Examples, Stream, Task
from cpool.streams.build import ARRANGEMENTS, build_stream
from cpool.streams.clinc import clinc150, clinc150_out_of_scope
from cpool.streams.conflicts import conflicting_intents
from cpool.streams.digits import permuted_digits, rotated_digits, split_digits
from cpool.streams.domain_folder import image_domains
from cpool.streams.domains import domain_incremental
from cpool.streams.drifting import gradual_drift
from cpool.streams.five import five_datasets
from cpool.streams.folder import image_folder
from cpool.streams.fscil import few_shot
from cpool.streams.images import split_cifar100_small, split_fashion_mnist
from cpool.streams.long_tail import long_tailed
from cpool.streams.noise import label_noise
from cpool.streams.omniglot import omniglot50
from cpool.streams.oriented import rotated_inverted_digits, rotated_inverted_fashion
from cpool.streams.paths import ImagePaths
from cpool.streams.registry import STREAMS, StreamInfo, load_stream
from cpool.streams.repetition import repeated
from cpool.streams.scenarios import class_incremental, task_incremental
from cpool.streams.si_blurry import blurry
from cpool.streams.single_pass import online
from cpool.streams.snips import snips
from cpool.streams.table import text_file
from cpool.streams.text import banking77

__all__ = [
    "ARRANGEMENTS",
    "STREAMS",
    "Examples",
    "ImagePaths",
    "Stream",
    "StreamInfo",
    "Task",
    "banking77",
    "blurry",
    "build_stream",
    "class_incremental",
    "clinc150",
    "clinc150_out_of_scope",
    "conflicting_intents",
    "domain_incremental",
    "few_shot",
    "five_datasets",
    "gradual_drift",
    "image_domains",
    "image_folder",
    "label_noise",
    "load_stream",
    "long_tailed",
    "omniglot50",
    "online",
    "permuted_digits",
    "repeated",
    "rotated_digits",
    "rotated_inverted_digits",
    "rotated_inverted_fashion",
    "snips",
    "split_cifar100_small",
    "split_digits",
    "split_fashion_mnist",
    "task_incremental",
    "text_file",
]
