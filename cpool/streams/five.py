"""A sequence of five image data sets, one a task."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cpool.errors import ConfigError
from cpool.streams._checks import check_seed, check_whole
from cpool.streams._given import keep_classes
from cpool.streams._locate import locate
from cpool.streams._source import Source, read_source, subset
from cpool.streams.base import Stream
from cpool.streams.digits import digits
from cpool.streams.images import cifar100_small_source, fashion_source
from cpool.streams.omniglot import OMNIGLOT, Alphabet, character_source, read_alphabets
from cpool.streams.scenarios import by_class

__all__ = ["five_datasets"]

_CLASSES = 10
Data = str | os.PathLike[str] | None


def five_datasets(
    *,
    tasks: int = 5,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    size: int = 32,
    train_per_class: int = 100,
    test_per_class: int = 30,
    subset_seed: int = 0,
    scenario: Literal["class", "task"] = "class",
) -> Stream:
    """Build a sequence in the manner of 5-datasets, of the image sets that this package reads.

    Its tasks are scikit-learn's digits, Fashion-MNIST, ten classes of the small CIFAR-100, and
    ten characters each of Omniglot's background and evaluation sets (at most 15 training and 5
    test drawings a character). It is not 5-datasets itself, which has SVHN, MNIST and notMNIST.
    Images are colour, uint8 [n size size 3], light on dark where they are drawings.

    Args:
        tasks: how many of the data sets, the first ones.
        seed: shuffles the data sets, and draws the validation split.
        validation: as in `class_incremental`.
        data: folder of the data sets; by default the environment's CPOOL_DATA.
        size: side of the images in pixels; resized by PIL, bilinear, with antialiasing.
        train_per_class: how many training examples of each class to keep at most.
        test_per_class: how many test examples of each class to keep at most.
        subset_seed: draws classes and examples; apart from `seed`, so that every seed sees the
            same.
        scenario: as in `class_incremental`.

    Raises:
        DataError: files are missing or damaged.
        ConfigError: an option that does not fit.

    Reference: S. Ebrahimi et al., Adversarial Continual Learning, ECCV 2020.
    """
    sets: tuple[tuple[str, Callable[[Data, int], Source]], ...] = (
        ("digits", lambda data, seed: digits()),
        ("Fashion-MNIST", lambda data, seed: fashion_source(data)),
        ("CIFAR-100", _cifar),
        ("Omniglot", lambda data, seed: _omniglot(locate(OMNIGLOT, data)[0], seed)),
        ("Omniglot 2", lambda data, seed: _omniglot(locate(OMNIGLOT, data)[1], seed)),
    )
    if check_whole(tasks, "tasks") > len(sets):
        got, remedy = str(tasks), "There are five data sets."
        raise ConfigError(expected="tasks from 1 to 5", got=got, remedy=remedy)
    check_whole(size, "size", 8)
    key = check_seed(subset_seed, "subset_seed")
    parts: list[list[Any]] = [[], [], [], []]
    names: list[list[str]] = []
    for index, (title, read) in enumerate(sets[:tasks]):
        source = subset(read(data, key), train_per_class, test_per_class, key)
        shift = index * _CLASSES
        for place, split in ((0, source.train), (2, source.test)):
            parts[place].append(_as_colour(np.asarray(split.x), size))
            parts[place + 1].append(split.y + shift)
        names.append([f"{title}: {name}" for name in source.class_names])
    x, y, x_test, y_test = (np.concatenate(part) for part in parts)
    joined = read_source(x, y, x_test, y_test, [name for some in names for name in some])
    order = np.random.default_rng(check_seed(seed)).permutation(tasks).tolist()
    return by_class(
        joined,
        tasks=[names[i] for i in order],
        task_names=[sets[i][0] for i in order],
        seed=seed,
        validation=validation,
        scenario=scenario,
        name="five_datasets",
    )


def _cifar(data: Data, seed: int) -> Source:
    source = cifar100_small_source(data)
    order = np.random.default_rng([seed, 12, 1]).permutation(len(source.class_names))
    return keep_classes(source, sorted(order[:_CLASSES].tolist()))


def _omniglot(path: Path, seed: int) -> Source:
    alphabets = read_alphabets(path)
    names = [name for alphabet in alphabets for name in alphabet.characters]
    order = np.random.default_rng([seed, 12, 2]).permutation(len(names))
    chosen = sorted(order[:_CLASSES].tolist())
    packed = np.concatenate([alphabet.packed for alphabet in alphabets])[chosen]
    return character_source([Alphabet("", [names[i] for i in chosen], packed)], 15, 5, seed)


def _as_colour(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Return images [n size size 3] of images [n H W] or [n H W 3]."""
    from PIL import Image

    made = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for row, image in enumerate(images):
        pil = Image.fromarray(image).convert("RGB")
        if pil.size != (size, size):
            pil = pil.resize((size, size), Image.Resampling.BILINEAR)
        made[row] = np.asarray(pil)
    return made
