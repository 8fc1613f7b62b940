"""Streams of image folders of your own."""

import os
from typing import Literal

from cpool.streams._folders import files_of_classes, is_split, labelled
from cpool.streams._labels import sorted_names
from cpool.streams._locate import check_path
from cpool.streams._source import divide, read_source
from cpool.streams._splits import ClassOrder, Tasks
from cpool.streams.base import Stream
from cpool.streams.scenarios import by_class

__all__ = ["image_folder"]


def image_folder(
    path: str | os.PathLike[str],
    *,
    tasks: Tasks = 5,
    seed: int = 0,
    validation: float | int = 0.1,
    test_fraction: float | int = 0.2,
    test_seed: int = 0,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    class_order: ClassOrder = None,
    scenario: Literal["class", "task"] = "class",
) -> Stream:
    """Build a stream of image files in a folder a class, read only when they are needed.

    Two layouts: `path/train/<class>/*` with `path/test/<class>/*`, or `path/<class>/*`, of which
    a share of every class becomes the test. Endings: bmp, gif, jpeg, jpg, pgm, png, ppm, tif,
    tiff, webp. Classes are in order of their names. Every file is read once for the fingerprint.

    Args:
        path: the folder.
        tasks: as in `class_incremental`.
        seed: as in `class_incremental`.
        validation: as in `class_incremental`.
        test_fraction: share of every class for the test, if there is no `test` folder.
        test_seed: draws this share; apart from `seed`, so that every seed has the same test.
        train_per_class: how many training examples of each class to keep; all by default.
        test_per_class: how many test examples of each class to keep; all by default.
        subset_seed: draws the kept examples; apart from `seed`, so that every seed sees the same.
        class_order: as in `class_incremental`.
        scenario: as in `class_incremental`.

    Raises:
        DataError: no such folder, a class without training images, a file that is no image.
        ConfigError: an option that does not fit.

    >>> image_folder("no/such/folder")
    Traceback (most recent call last):
    cpool.errors.DataError: expected a folder of class folders; got no folder no/such/folder...
    """
    root = check_path(path, "path")
    split = is_split(root)
    train = files_of_classes(root / "train" if split else root)
    test = files_of_classes(root / "test") if split else {}
    names = sorted_names([*train, *test])
    x, y = labelled(train, names)
    x_test, y_test = labelled(test, names) if split else (None, None)
    source = read_source(x, y, x_test, y_test, names)
    return by_class(
        source if split else divide(source, test_fraction, test_seed),
        tasks=tasks,
        seed=seed,
        validation=validation,
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        subset_seed=subset_seed,
        class_order=class_order,
        scenario=scenario,
        name="image_folder",
    )
