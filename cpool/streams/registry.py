"""The named streams, and how a name and options become one."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cpool.errors import ConfigError, unknown
from cpool.streams._locate import DataSet
from cpool.streams.base import Stream
from cpool.streams.clinc import CLINC150, clinc150
from cpool.streams.conflicts import conflicting_intents
from cpool.streams.digits import permuted_digits, rotated_digits, split_digits
from cpool.streams.domain_folder import image_domains
from cpool.streams.drifting import gradual_drift
from cpool.streams.five import five_datasets
from cpool.streams.folder import image_folder
from cpool.streams.fscil import few_shot
from cpool.streams.images import (
    CIFAR100_SMALL,
    FASHION_MNIST,
    split_cifar100_small,
    split_fashion_mnist,
)
from cpool.streams.long_tail import long_tailed
from cpool.streams.noise import label_noise
from cpool.streams.omniglot import OMNIGLOT, omniglot50
from cpool.streams.oriented import rotated_inverted_digits, rotated_inverted_fashion
from cpool.streams.repetition import repeated
from cpool.streams.si_blurry import blurry
from cpool.streams.single_pass import online
from cpool.streams.snips import SNIPS, snips
from cpool.streams.table import text_file
from cpool.streams.text import BANKING77, banking77

__all__ = ["STREAMS", "StreamInfo", "load_stream"]


@dataclass(frozen=True)
class StreamInfo:
    """A named stream.

    Attributes:
        builder: makes it; the arguments are the stream's options.
        summary: what it is, one line.
        needs: which files must be there, and where they are to be had.
    """

    builder: Callable[..., Stream]
    summary: str
    needs: str = "nothing; the images come with scikit-learn"

    @property
    def options(self) -> dict[str, Any]:
        """Return the names of the options and their defaults, `inspect.Parameter.empty` if none."""
        parameters = inspect.signature(self.builder).parameters.values()
        return {parameter.name: parameter.default for parameter in parameters}


def _needs(*sets: DataSet) -> str:
    return "; ".join(f"{dataset.needs} ({dataset.origin})" for dataset in sets)


_OF = "of=, a registered stream or a file or folder of your own, and what that needs"

STREAMS: dict[str, StreamInfo] = {
    "banking77": StreamInfo(
        banking77,
        "77 intents of online banking in 7 tasks of 11; class-incremental text",
        _needs(BANKING77),
    ),
    "blurry": StreamInfo(
        blurry, "Si-Blurry: some classes in one task, the others blurred over all", _OF
    ),
    "clinc150": StreamInfo(
        clinc150,
        "150 intents in 10 tasks, one a domain; class-incremental text",
        _needs(CLINC150),
    ),
    "conflicting_intents": StreamInfo(
        conflicting_intents,
        "intents of 3 data sets under the same labels; domain-incremental text",
        _needs(SNIPS, BANKING77, CLINC150),
    ),
    "few_shot": StreamInfo(few_shot, "a base session, then n-way k-shot sessions (FSCIL)", _OF),
    "five_datasets": StreamInfo(
        five_datasets,
        "5 image sets of 10 classes, one a task; class-incremental images",
        _needs(FASHION_MNIST, CIFAR100_SMALL, OMNIGLOT),
    ),
    "gradual_drift": StreamInfo(
        gradual_drift, "task-free: small chunks, each task or domain slides into the next", _OF
    ),
    "image_domains": StreamInfo(
        image_domains,
        "image files of your own, a folder a domain; domain-incremental images",
        "path=, a folder with <domain>/train/<class>/ and <domain>/test/<class>/, or with "
        "<domain>/<class>/",
    ),
    "image_folder": StreamInfo(
        image_folder,
        "image files of your own, a folder a class; class-incremental images",
        "path=, a folder with train/<class>/ and test/<class>/, or with <class>/",
    ),
    "label_noise": StreamInfo(
        label_noise, "wrong labels in a share of the training examples of any stream", _OF
    ),
    "long_tailed": StreamInfo(
        long_tailed, "class sizes that fall exponentially; class-incremental", _OF
    ),
    "omniglot50": StreamInfo(
        omniglot50,
        "characters of 50 alphabets, one alphabet a task; class-incremental images",
        _needs(OMNIGLOT),
    ),
    "online": StreamInfo(online, "a single pass over any stream in small experiences", _OF),
    "permuted_digits": StreamInfo(
        permuted_digits, "digits with permuted pixels; domain-incremental images"
    ),
    "repeated": StreamInfo(
        repeated, "classes come again by chance, examples do not; class-incremental", _OF
    ),
    "rotated_digits": StreamInfo(
        rotated_digits, "digits turned further in every task; domain-incremental images"
    ),
    "rotated_inverted_digits": StreamInfo(
        rotated_inverted_digits,
        "digits turned by quarters and inverted; domain-incremental images",
    ),
    "rotated_inverted_fashion": StreamInfo(
        rotated_inverted_fashion,
        "clothes turned by quarters and inverted; domain-incremental images",
        _needs(FASHION_MNIST),
    ),
    "snips": StreamInfo(
        snips, "7 intents of a voice assistant in 3 tasks; class-incremental text", _needs(SNIPS)
    ),
    "split_cifar100_small": StreamInfo(
        split_cifar100_small,
        "100 classes of 100 + 50 colour images in 10 tasks; class-incremental images",
        _needs(CIFAR100_SMALL),
    ),
    "split_digits": StreamInfo(
        split_digits, "10 classes of 8 x 8 handwriting in 5 tasks; class-incremental images"
    ),
    "split_fashion_mnist": StreamInfo(
        split_fashion_mnist,
        "10 kinds of clothes in 5 tasks; class-incremental images",
        _needs(FASHION_MNIST),
    ),
    "text_file": StreamInfo(
        text_file,
        "texts and labels of your own; class- or domain-incremental text",
        "path=, a .csv or .jsonl file with the columns text and label (also task, split)",
    ),
}


def load_stream(
    name: str,
    *,
    tasks: Any = None,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Stream:
    """Build a registered stream.

    Args:
        name: a key of `STREAMS`.
        tasks: number of tasks, or the classes of each; by default the stream's own number.
        seed: order of classes and validation split.
        validation: fraction of the training examples of each class to hold out, in [0, 1).
        data: folder of the data sets, by default what the environment's CPOOL_DATA names; streams
            that need none ignore it.
        options: the stream's further options, see `STREAMS[name].options`.

    Raises:
        UnknownNameError: no stream, or no option of it, has this name.
        ConfigError: an option does not fit, or one that is needed is not given.
        DataError: the data is missing or damaged.

    >>> load_stream("split_digits", tasks=2, validation=0).describe()["train_sizes"]
    [721, 716]
    >>> load_stream("split_digits", task=2)
    Traceback (most recent call last):
    cpool.errors.UnknownNameError: expected a known option of split_digits (...'task'. Did ...?
    """
    if not isinstance(name, str) or name not in STREAMS:
        raise unknown("stream", str(name), STREAMS)
    info = STREAMS[name]
    for option in options:
        if option not in info.options:
            raise unknown(f"option of {name}", option, info.options)
    options |= {"seed": seed, "validation": validation}
    if tasks is not None:
        options["tasks"] = tasks
    if data is not None and "data" in info.options:
        options["data"] = data
    for option, default in info.options.items():
        if default is inspect.Parameter.empty and option not in options:
            raise ConfigError(
                expected=f"{option}= for the stream {name!r}",
                got="none",
                remedy=f"It needs {info.needs}.",
            )
    return info.builder(**options)
