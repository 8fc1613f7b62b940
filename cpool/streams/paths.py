"""Images that stay in their files until somebody asks for them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from cpool.errors import DataError

__all__ = ["ImagePaths"]

_DEEP = ("I", "F")  # modes with more than 8 bits a channel, which "RGB" would clip


class ImagePaths(Sequence[Any]):
    """A lazy sequence of image files; each item is opened with PIL as RGB uint8 [H W 3].

    Args:
        paths: the files, of any format that PIL reads, and of any sizes.

    Raises:
        DataError: on reading an item that is missing, damaged, or has over 8 bits a channel.

    >>> len(ImagePaths(["a.png", "b.png"])), ImagePaths(["a.png", "b.png"])[1:]
    (2, ImagePaths(1 files, first 'b.png'))
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.paths = tuple(Path(path) for path in paths)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> "ImagePaths": ...
    def __getitem__(self, index: int | slice) -> "npt.NDArray[np.uint8] | ImagePaths":
        """Return one image, uint8 [H W 3], or for a slice a lazy sequence."""
        if isinstance(index, slice):
            return ImagePaths(self.paths[index])
        return _read(self.paths[index])

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the images one by one."""
        return (_read(path) for path in self.paths)

    def __repr__(self) -> str:
        """Say how many files, and name the first."""
        first = f", first {str(self.paths[0])!r}" if self.paths else ""
        return f"ImagePaths({len(self)} files{first})"

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> "ImagePaths":
        """Return the files at `rows`, still unread."""
        return ImagePaths([self.paths[int(i)] for i in rows])

    @staticmethod
    def concat(parts: Sequence[Any]) -> "ImagePaths":
        """Return the files of all parts, one part after the other."""
        return ImagePaths([path for part in parts for path in part.paths])

    def check(self) -> None:
        """Open every file's header.

        Raises:
            DataError: a file is missing or is not an image; the message names it.
        """
        for path in self.paths:
            _open(path).close()


def _open(path: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise _unreadable(path, error) from error


def _read(path: Path) -> npt.NDArray[np.uint8]:
    with _open(path) as image:
        if image.mode.startswith(_DEEP):
            raise DataError(
                expected="images of at most 8 bits a channel",
                got=f"mode {image.mode!r} in {path}",
                remedy="Convert the file to 8 bits, with the scaling that suits your data.",
            )
        try:
            # PIL warns when a palette with transparency goes to RGB directly.
            through = image.convert("RGBA") if "transparency" in image.info else image
            return np.asarray(through.convert("RGB"), dtype=np.uint8).copy()
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        expected=f"a readable image file {path}",
        got=f"{type(error).__name__}: {error}",
        remedy="Remove the file from the folder or replace it with an intact copy.",
    )
