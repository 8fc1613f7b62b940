"""From raw images to pixel values, vectorised, as the model's image processor would do it.

The processors of transformers work image by image, or need torchvision. This follows the settings
of a processor over whole arrays instead; a processor that does anything else is called as it is.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from cpool.backbones._pixels import Settings, by_processor
from cpool.errors import DataError

__all__ = ["prepare"]


def prepare(images: Any, processor: Any, channels: int = 3) -> Float[Tensor, "B C H W"]:
    """Turn images into normalised pixel values of one size.

    Args:
        images: one array [n H W] or [n H W C], or a sequence of arrays, tensors, PIL images or
            paths, also of different sizes; uint8, or float in [0, 1]. Grey images are repeated
            over the channels.
        processor: a Hugging Face image processor.
        channels: C of the model.

    Raises:
        DataError: no image, a wrong shape or type, NaN or infinite values, floats outside [0, 1].
    """
    settings = Settings(processor)
    groups = _groups(images, channels)
    total = sum(len(places) for places, _ in groups)
    result: Tensor | None = None
    for places, pixels in groups:
        values = settings(pixels) if settings.plain else by_processor(pixels, processor)
        if result is None:
            result = torch.empty(total, channels, *values.shape[2:])
        if values.shape[2:] != result.shape[2:]:
            raise DataError(
                expected=f"images that the processor brings to one size, {tuple(result.shape[2:])}",
                got=f"{tuple(values.shape[2:])} as well",
                remedy="Bring them to one size before, or use a processor with a fixed size.",
            )
        result[places] = values.expand(-1, channels, -1, -1)
    assert result is not None
    return result


def _groups(images: Any, channels: int) -> list[tuple[Tensor, Tensor]]:
    """Return (positions, pixels [n c H W]) of images of equal shape; c is 1 or `channels`."""
    if isinstance(images, (np.ndarray, Tensor)):
        if len(images) and images.ndim in (3, 4):
            return [(torch.arange(len(images)), _pixels(images, channels))]
        raise _wrong(f"an array of shape {tuple(images.shape)}")
    if isinstance(images, (str, bytes, Path)) or not hasattr(images, "__len__") or not len(images):
        raise _wrong(repr(images)[:80])
    arrays = [_array(image) for image in images]
    shapes: dict[tuple[Any, ...], list[int]] = {}
    for i, array in enumerate(arrays):
        if array.ndim not in (2, 3):
            raise _wrong(f"an image of shape {array.shape} at position {i}")
        shapes.setdefault((array.dtype, *array.shape), []).append(i)
    return [
        (torch.tensor(places), _pixels(np.stack([arrays[i] for i in places]), channels))
        for places in shapes.values()
    ]


def _array(image: Any) -> npt.NDArray[Any]:
    if isinstance(image, (str, Path)):
        image = _open(image)
    if hasattr(image, "getbands"):  # PIL, without importing it
        image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    return image.numpy() if isinstance(image, Tensor) else np.asarray(image)


def _open(path: str | Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert(image.mode if image.mode in ("L", "RGB") else "RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(
            expected="an image file", got=f"{path}: {error}", remedy="Check or drop the file."
        ) from error


def _pixels(images: Any, channels: int) -> Tensor:
    """Return uint8 or float pixels [n c H W] of one array [n H W] or [n H W C], checked."""
    array = images.numpy() if isinstance(images, Tensor) else images
    kind = array.dtype
    if kind != np.uint8 and not (kind.kind == "f"):
        raise DataError(
            expected="images of type uint8 (0 to 255) or float (0 to 1)",
            got=str(kind),
            remedy="Cast them: `x.astype('uint8')`.",
        )
    if array.ndim == 3:
        array = array[..., None]
    if array.shape[-1] not in {1, channels} or 0 in array.shape:
        raise _wrong(f"an array of shape {tuple(images.shape)}", channels)
    if kind.kind == "f":
        array = _check_floats(array)
    # Copied: torch cannot wrap read-only arrays (memory-mapped data) without a warning.
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)).copy())


def _check_floats(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
        raise DataError(
            expected="finite pixel values",
            got=f"NaN or infinity in {len(bad)} images, the first at position {bad[0]}",
            remedy="Repair or drop them.",
        )
    if low < 0 or high > 1:
        raise DataError(
            expected="float images in [0, 1]",
            got=f"values from {low:g} to {high:g}",
            remedy="Divide by the largest possible value, or pass uint8 images in 0..255.",
        )
    return array.astype(np.float32)


def _wrong(got: str, channels: int = 3) -> DataError:
    return DataError(
        expected=f"images as [n H W] or [n H W {channels}], channels last, at least one",
        got=got,
        remedy="Put a single image into a list; move the channel axis to the end.",
    )
