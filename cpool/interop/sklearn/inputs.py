"""Reader: what scikit-learn calls X, as the texts or images that a backbone reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_array

from cpool.backbones.text import checked
from cpool.errors import ConfigError, DataError

__all__ = ["Form", "Reader", "as_images", "as_texts", "form_of"]

Array = npt.NDArray[Any]
Form: TypeAlias = Literal["texts", "images", "rows"]


def form_of(x: Any, kind: str) -> Form:
    """Return what X is to a backbone of a kind: texts, images, or rows of flattened images.

    Raises:
        DataError: texts, or images of several sizes, for a backbone that reads images.
    """
    if kind != "vision":
        return "texts"
    try:
        axes = x.ndim if hasattr(x, "ndim") else np.asarray(x).ndim  # a sparse matrix has it
    except ValueError as error:
        raise DataError(
            expected="images of one size, [n H W] or [n H W 3], or rows of pixels [n F]",
            got="several sizes",
            remedy="Bring them to one size.",
        ) from error
    if axes == 1 and len(x) and isinstance(np.asarray(x).flat[0], str):
        raise DataError(
            expected="images, since the backbone is a vision model",
            got="texts",
            remedy="Name a text encoder or a language model as backbone=.",
        )
    return "images" if axes > 2 else "rows"


def as_texts(x: Any) -> list[str]:
    """Return X as a list of texts.

    Raises:
        DataError: no vector of texts, or one that is empty.
    """
    shape = np.shape(x) if hasattr(x, "shape") else None
    if shape is not None and len(shape) != 1:
        raise DataError(
            expected="a list or a vector of texts, since the backbone is a text model",
            got=f"an array of shape {list(shape)}",
            remedy="Pass one column, such as X[:, 0] or frame['text'].",
        )
    return checked(x.tolist() if hasattr(x, "tolist") else x)


def as_images(x: Any) -> Array:
    """Return images [n H W] or [n H W C] after checking them.

    Raises:
        DataError: neither uint8 nor floats in [0, 1], or another number of axes or channels.
        ValueError: as of scikit-learn: no samples, NaN or infinity.
    """
    images: Array = check_array(x, dtype=None, ensure_2d=False, allow_nd=True, input_name="X")
    if images.ndim > 4 or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
        raise DataError(
            expected="images [n H W], [n H W 1] or [n H W 3]",
            got=f"an array of shape {list(images.shape)}",
            remedy="Move the channel axis to the end: numpy.moveaxis(X, 1, -1).",
        )
    kind = images.dtype
    span = f" from {images.min():g} to {images.max():g}" if kind.kind in "iuf" else ""
    right = kind == np.uint8 or (kind.kind == "f" and images.min() >= 0 and images.max() <= 1)
    if not right:
        raise DataError(
            expected="images of type uint8 (0 to 255), or floats from 0 to 1",
            got=f"{kind}{span}",
            remedy="Divide by the largest possible value, or cast them to uint8.",
        )
    return images


@dataclass(frozen=True)
class Reader:
    """How X becomes what a backbone reads, as the first call settled it.

    Attributes:
        form: of X; it stays.
        shape: of the image in a row, [H W] or [H W C].
        low: value of a row that is black.
        high: value of a row that is white.

    >>> Reader.of_rows(np.array([[0.0, 4.0, 8.0, 16.0]])).rows(np.array([[8.0, 8.0, 0.0, 99.0]]))
    array([[[0.5, 0.5],
            [0. , 1. ]]], dtype=float32)
    """

    form: Form
    shape: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 255.0

    @classmethod
    def of_rows(cls, x: Array, image_shape: Any = None) -> "Reader":
        """Settle shape and range by the first rows [n F].

        Raises:
            ConfigError: an `image_shape` of another number of pixels.
        """
        shape = _shape(x.shape[1], image_shape)
        if x.dtype == np.uint8:
            return cls("rows", shape)
        return cls("rows", shape, float(x.min()), float(x.max()))

    def check(self, form: Form) -> None:
        """Refuse another form of X than at the first call.

        Raises:
            DataError: another one.
        """
        if form != self.form:
            raise DataError(
                expected=f"{self.form}, as at the first call",
                got=form,
                remedy="Give X the same form at every call; call fit to begin anew.",
            )

    def rows(self, x: Array) -> Array:
        """Return rows [n F] as images, uint8 or floats in [0, 1]."""
        if x.dtype == np.uint8 and (self.low, self.high) == (0.0, 255.0):
            return x.reshape(len(x), *self.shape)
        width = self.high - self.low or 1.0  # rows of one value are black
        scaled = np.clip((x.astype(np.float64) - self.low) / width, 0.0, 1.0)
        images: Array = scaled.astype(np.float32).reshape(len(x), *self.shape)
        return images


def _shape(pixels: int, image_shape: Any) -> tuple[int, ...]:
    if image_shape is None:
        side = math.isqrt(pixels)
        return (side, side) if side * side == pixels else (1, pixels)
    shape = tuple(image_shape) if isinstance(image_shape, Sequence) else ()
    whole = all(isinstance(size, int) and size > 0 for size in shape)
    if len(shape) not in (2, 3) or not whole or math.prod(shape) != pixels:
        raise ConfigError(
            expected=f"image_shape as (H, W) or (H, W, C) of {pixels} values, as many as a row has",
            got=repr(image_shape),
            remedy="Name the shape that the images had before they were flattened.",
        )
    return shape
