"""Arrays from npz files; errors name the file."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cpool.errors import DataError

__all__ = ["damaged", "read_npz"]


def read_npz(path: Path, keys: tuple[str, ...]) -> list[npt.NDArray[Any]]:
    """Return the arrays of an npz file.

    Raises:
        DataError: the file cannot be read, or lacks one of them.
    """
    try:
        # numpy leaves a file open that it was asked to open and that is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return [archive[key] for key in keys]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def damaged(path: Path, got: str) -> DataError:
    """Return the error for a data file that is not what it should be."""
    return DataError(
        expected=f"an intact file {path} in the data set's own format",
        got=got,
        remedy="Get the file again; it may be cut short.",
    )
