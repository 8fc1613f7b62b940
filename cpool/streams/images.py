"""Streams of image sets that are read from files: Fashion-MNIST and a small CIFAR-100."""

import gzip
import os
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cpool.streams._arrays import damaged, read_npz
from cpool.streams._locate import DataSet, locate
from cpool.streams._source import Source, read_source
from cpool.streams._splits import ClassOrder, Tasks
from cpool.streams.base import Stream
from cpool.streams.scenarios import by_class

__all__ = [
    "CIFAR100_SMALL",
    "FASHION_MNIST",
    "cifar100_small_source",
    "fashion_source",
    "split_cifar100_small",
    "split_fashion_mnist",
]

FASHION_MNIST = DataSet(
    title="Fashion-MNIST",
    folder="fashion-mnist",
    files=tuple(
        f"{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ),
    origin="zalandoresearch/fashion-mnist on GitHub, or Debian's package dataset-fashion-mnist",
)
CIFAR100_SMALL = DataSet(
    title="the small CIFAR-100 (100 training and 50 test images of each class)",
    folder="",
    files=("cifar100_small.npz",),
    origin="Alex Krizhevsky's CIFAR page (University of Toronto), as an npz of uint8 images "
    "x_train, x_test [n 32 32 3], labels y_train, y_test, and class names classes",
)
_CLOTHES = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot"


def split_fashion_mnist(
    *,
    tasks: Tasks = 5,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    class_order: ClassOrder = None,
    scenario: Literal["class", "task"] = "class",
) -> Stream:
    """Build Split Fashion-MNIST: 10 classes; 60,000 training and 10,000 test images [n 28 28].

    Args:
        tasks: as in `class_incremental`.
        seed: as in `class_incremental`.
        validation: as in `class_incremental`.
        data: folder that holds `fashion-mnist/`; by default the environment's CPOOL_DATA.
        train_per_class: how many training examples of each class to keep; all by default.
        test_per_class: how many test examples of each class to keep; all by default.
        subset_seed: draws the kept examples; apart from `seed`, so that every seed sees the same.
        class_order: as in `class_incremental`.
        scenario: as in `class_incremental`.

    Raises:
        DataError: the files are missing or damaged.
        ConfigError: an option that does not fit.

    Reference: H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, 2017, arXiv:1708.07747 (MIT).
    """
    return by_class(
        fashion_source(data),
        tasks=tasks,
        seed=seed,
        validation=validation,
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        subset_seed=subset_seed,
        class_order=class_order,
        scenario=scenario,
        name="split_fashion_mnist",
    )


def split_cifar100_small(
    *,
    tasks: Tasks = 10,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    class_order: ClassOrder = None,
    scenario: Literal["class", "task"] = "class",
) -> Stream:
    """Build Split CIFAR-100 of 100 training and 50 test images a class, uint8 [n 32 32 3].

    Arguments and errors are those of `split_fashion_mnist`; `data` holds `cifar100_small.npz`.

    Reference: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    return by_class(
        cifar100_small_source(data),
        tasks=tasks,
        seed=seed,
        validation=validation,
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        subset_seed=subset_seed,
        class_order=class_order,
        scenario=scenario,
        name="split_cifar100_small",
    )


def fashion_source(data: str | os.PathLike[str] | None) -> Source:
    """Return all images of Fashion-MNIST, uint8 [n 28 28]."""
    x, y, x_test, y_test = (_read_idx(path) for path in locate(FASHION_MNIST, data))
    names = [name.replace("_", " ") for name in _CLOTHES.split()]
    return read_source(x, y, x_test, y_test, names)


def cifar100_small_source(data: str | os.PathLike[str] | None) -> Source:
    """Return all images of the small CIFAR-100, uint8 [n 32 32 3]."""
    keys = ("x_train", "y_train", "x_test", "y_test", "classes")
    x, y, x_test, y_test, names = read_npz(locate(CIFAR100_SMALL, data)[0], keys)
    return read_source(x, y, x_test, y_test, names.tolist())


def _read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read an idx file of unsigned bytes: 0, 0, type 8, number of axes, sizes, values."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    axes = data[3] if len(data) > 3 else 0
    shape = np.frombuffer(data[4 : 4 + 4 * axes], dtype=">u4").astype(int).tolist()
    if data[:3] != b"\x00\x00\x08" or len(data) != 4 + 4 * axes + int(np.prod(shape)):
        raise damaged(path, f"{len(data)} bytes that begin with {data[:4].hex() or 'nothing'}")
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)
