"""Image files in a folder a class: which there are, and how they become inputs and labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cpool.errors import DataError
from cpool.streams.paths import ImagePaths

__all__ = ["files_of_classes", "folders_in", "is_split", "labelled"]

_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def folders_in(root: Path) -> list[Path]:
    """Return the folders in a folder, by name and without hidden ones; none if it is not there."""
    if not root.is_dir():
        return []
    return [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def is_split(root: Path) -> bool:
    """Say whether `root/train/<class>/` and `root/test/<class>/` are there.

    A folder `train` that holds no folders is a class of that name.

    Raises:
        DataError: the first without the second.
    """
    train, test = (folders_in(root / part) for part in ("train", "test"))
    if train and not test:
        raise DataError(
            expected=f"{root / 'test'} with a folder a class, beside {root / 'train'}",
            got="none, or one without folders",
            remedy="Add it, or put the class folders right under the folder you name.",
        )
    return bool(train)


def files_of_classes(root: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder in `root`, by name; a class may have none.

    Raises:
        DataError: no class folder.
    """
    if not folders_in(root):
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
        for folder in folders_in(root)
    }


def labelled(
    files: Mapping[str, Sequence[Path]], names: Sequence[str]
) -> tuple[ImagePaths, npt.NDArray[np.int64]]:
    """Return the files class by class, unread, and the label of each.

    Raises:
        DataError: no file at all.
    """
    counts = [len(files.get(name, ())) for name in names]
    if not sum(counts):
        raise DataError(
            expected="image files in the class folders",
            got=f"none in {', '.join(names[:5])}",
            remedy=f"Known endings are {', '.join(sorted(_ENDINGS))}.",
        )
    paths = ImagePaths([file for name in names for file in files.get(name, ())])
    return paths, np.repeat(np.arange(len(names)), counts)
