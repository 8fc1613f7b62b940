"""Changes of inputs that turn one set of images into several domains; deterministic."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["permute", "rotate"]


def permute(images: Any, order: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Move the H · W pixels of images [n H W] to the places that `order` [H · W] says."""
    flat = np.asarray(images).reshape(len(images), -1)
    return np.ascontiguousarray(flat[:, order].reshape(images.shape))


def rotate(images: Any, degrees: float | int) -> npt.NDArray[np.uint8]:
    """Turn square images [n H H] counter-clockwise about their centre, bilinear, 0 outside."""
    size = images.shape[-1]
    angle, centre = np.deg2rad(degrees), (size - 1) / 2
    # Rounding makes quarter turns exact, whatever the last bit of sin and cos is.
    cos, sin = np.round(np.cos(angle), 12), np.round(np.sin(angle), 12)
    row, column = np.mgrid[:size, :size] - centre
    from_row = cos * row + sin * column + centre
    from_column = cos * column - sin * row + centre
    low_row, low_column = np.floor(from_row).astype(int), np.floor(from_column).astype(int)
    padded = np.pad(np.asarray(images, dtype=np.float64), ((0, 0), (1, 1), (1, 1)))
    total = np.zeros(images.shape)
    for i in (0, 1):
        for j in (0, 1):
            weight = (1 - np.abs(from_row - low_row - i)) * (
                1 - np.abs(from_column - low_column - j)
            )
            rows = np.clip(low_row + i + 1, 0, size + 1)
            columns = np.clip(low_column + j + 1, 0, size + 1)
            total += weight * padded[:, rows, columns]
    return np.round(total).astype(np.uint8)
