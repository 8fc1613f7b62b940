"""Streams of image folders of your own."""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cpool.errors import DataError
from cpool.streams._labels import sorted_names
from cpool.streams._locate import check_path
from cpool.streams._source import divide, read_source
from cpool.streams._splits import ClassOrder, Tasks
from cpool.streams.base import Stream
from cpool.streams.paths import ImagePaths
from cpool.streams.scenarios import by_class

__all__ = ["image_folder"]

_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


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
    split = _is_split(root)
    train, test = (_files(root / "train"), _files(root / "test")) if split else (_files(root), {})
    names = sorted_names([*train, *test])
    x, y = _examples(train, names)
    x_test, y_test = _examples(test, names) if split else (None, None)
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


def _is_split(root: Path) -> bool:
    train, test = (_folders(root / part) if root.is_dir() else [] for part in ("train", "test"))
    if train and not test:
        raise DataError(
            expected=f"{root / 'test'} with a folder a class, beside {root / 'train'}",
            got="none, or one without folders",
            remedy="Add it, or put the class folders right under the folder you name.",
        )
    return bool(train)


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _files(root: Path) -> dict[str, list[Path]]:
    if not _folders(root):
        raise DataError(
            expected="a folder of class folders",
            got=f"no folder{'s in' * root.is_dir()} {root}",
            remedy="Lay the images out as root/<class>/*.png or root/train/<class>/*.png.",
        )
    return {
        folder.name: [
            file
            for file in sorted(folder.iterdir())
            if file.suffix.lower() in _ENDINGS and not file.name.startswith(".")
        ]
        for folder in _folders(root)
    }


def _examples(files: dict[str, list[Path]], names: list[str]) -> tuple[ImagePaths, Any]:
    counts = [len(files.get(name, ())) for name in names]
    if not sum(counts):
        raise DataError(
            expected="image files in the class folders",
            got=f"none in {', '.join(names[:5])}",
            remedy=f"Known endings are {', '.join(sorted(_ENDINGS))}.",
        )
    paths = ImagePaths([file for name in names for file in files.get(name, ())])
    return paths, np.repeat(np.arange(len(names)), counts)
