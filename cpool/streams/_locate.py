"""Where data sets are: in the folder `data=`, else in the one that CPOOL_DATA names."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpool.errors import ConfigError, DataError

__all__ = ["DataSet", "check_path", "locate"]


@dataclass(frozen=True)
class DataSet:
    """Files of one data set, and where a user gets them.

    Attributes:
        title: what people call it.
        folder: where it lies under the data root, "" for the root itself.
        files: the names that must be there.
        origin: where the data set is to be had.
    """

    title: str
    folder: str
    files: tuple[str, ...]
    origin: str

    @property
    def needs(self) -> str:
        """Return the files as a user would look for them."""
        return ", ".join(str(Path(self.folder) / file) for file in self.files)


def check_path(path: Any, what: str) -> Path:
    """Return a path.

    Raises:
        ConfigError: something that is not a path, or an empty name.
    """
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise ConfigError(
            expected=f"{what}= as the name of a file or folder",
            got=repr(path),
            remedy="Quote the name.",
        )
    return Path(path)


def locate(dataset: DataSet, data: str | os.PathLike[str] | None) -> list[Path]:
    """Return the path of each file, under root/folder or directly under the root.

    Raises:
        ConfigError: `data` is not a path.
        DataError: no root is given, or a file is not there; the message says what was looked
            for, where, and where it is to be had.
    """
    root = os.environ.get("CPOOL_DATA") if data is None else check_path(data, "data")
    remedy = (
        f"Get it from {dataset.origin}, put {dataset.needs} into a folder, and name that folder "
        "in the environment variable CPOOL_DATA or as data=."
    )
    if not root:
        raise DataError(
            expected=f"{dataset.title} ({dataset.needs})",
            got="no folder to look in, since neither data= nor CPOOL_DATA is set",
            remedy=remedy,
        )
    for folder in (Path(root) / dataset.folder, Path(root)):
        paths = [folder / file for file in dataset.files]
        if all(path.is_file() for path in paths):
            return paths
    missing = [f for f in dataset.files if not (Path(root) / dataset.folder / f).is_file()]
    raise DataError(
        expected=f"{dataset.title} in {Path(root) / dataset.folder}",
        got=f"no {', '.join(missing)} there" if Path(root).is_dir() else f"no folder {root}",
        remedy=remedy,
    )
