"""What a caller hands over becomes one of the forms that `Examples.x` allows, checked once."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cpool.errors import DataError
from cpool.streams.base import Inputs, Modality
from cpool.streams.paths import ImagePaths

__all__ = ["from_dataset", "to_array", "to_inputs"]


def to_array(value: Any) -> npt.NDArray[Any] | None:
    """Return `value` as an array if it is one or a tensor; tensors [n 3|1 H W] go channels-last."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "to_numpy"):  # a column of a data frame
        return np.asarray(value.to_numpy())
    if not (hasattr(value, "detach") and hasattr(value, "cpu")):
        return None
    array: npt.NDArray[Any] = value.detach().cpu().numpy()
    channels_first = array.ndim in (3, 4) and array.shape[-3] in (1, 3)
    if array.ndim == 4 and channels_first and array.shape[-1] not in (1, 3):
        return np.ascontiguousarray(np.moveaxis(array, -3, -1))
    return array


def from_dataset(dataset: Any) -> tuple[Any, Any]:
    """Read a map-style data set of (x, y) pairs once, into inputs and labels.

    Raises:
        DataError: no length, or an item that is not a pair; the message gives its position.
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            expected="a map-style data set with a length, or labels beside the inputs",
            got=type(dataset).__name__,
            remedy="Read an iterable data set into arrays first, and pass x and y.",
        )
    inputs, labels = [], []
    for i in range(len(dataset)):
        item = dataset[i]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(
                expected="(x, y) pairs from the data set",
                got=f"{type(item).__name__} at position {i}",
                remedy="Wrap the data set so that it yields (x, y), or pass x and y as arrays.",
            )
        inputs.append(_dataset_input(item[0]))
        labels.append(item[1].item() if hasattr(item[1], "item") else item[1])
    return inputs, labels


def _dataset_input(value: Any) -> Any:
    if hasattr(value, "detach") and getattr(value, "ndim", 0) == 3:
        batched = to_array(value[None])
        return value if batched is None else batched[0]
    array = to_array(value)
    return value if array is None else array


def to_inputs(value: Any, what: str) -> tuple[Inputs, Modality]:
    """Return the checked inputs and their modality; `what` names them in errors.

    Raises:
        DataError: empty inputs; texts that are empty; images of a wrong shape, type or range;
            features that are not finite; or a kind of object that is none of these.
    """
    if isinstance(value, ImagePaths):
        value.check()
        return value, "image"
    array = to_array(value)
    if array is None and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return _from_list(value, what)
    if array is None:
        raise _wrong(what, type(value).__name__)
    if array.dtype.kind in "UO":
        return _from_list(array.tolist(), what)
    return _from_array(array, what)


def _from_list(items: Sequence[Any], what: str) -> tuple[Inputs, Modality]:
    if not items:
        raise _wrong(what, "an empty list", "Give at least one example.")
    for kind, build in _KINDS:
        if isinstance(items[0], kind):
            odd = next((i for i, item in enumerate(items) if not isinstance(item, kind)), None)
            if odd is not None:
                raise _wrong(what, f"{type(items[odd]).__name__} at position {odd} of a list")
            return build(items, what)
    arrays = [to_array(item) for item in items]
    try:
        images = [np.asarray(i) if a is None else a for a, i in zip(arrays, items, strict=True)]
    except ValueError as error:
        raise _wrong(what, f"a list of nested lists ({error})") from error
    if len({image.shape for image in images}) == 1 and images[0].dtype.kind not in "UO":
        return _from_array(np.stack(images), what)
    for i, image in enumerate(images):
        _check_array(image[None], f"{what}, position {i}")
        if image.ndim == 1:
            raise _wrong(what, "feature rows of several lengths")
    return images, "image"


def _texts(items: Sequence[Any], what: str) -> tuple[Inputs, Modality]:
    empty = next((i for i, text in enumerate(items) if not text.strip()), None)
    if empty is not None:
        raise DataError(
            expected=f"texts with at least one visible character in {what}",
            got=f"{items[empty]!r} at position {empty}",
            remedy="Drop the empty rows together with their labels.",
        )
    return [str(text) for text in items], "text"


def _paths(items: Sequence[Any], what: str) -> tuple[Inputs, Modality]:
    return to_inputs(ImagePaths(items), what)


_KINDS: tuple[tuple[type, Callable[[Sequence[Any], str], tuple[Inputs, Modality]]], ...] = (
    (str, _texts),
    (os.PathLike, _paths),
)


def _from_array(array: npt.NDArray[Any], what: str) -> tuple[Inputs, Modality]:
    if array.ndim == 0 or len(array) == 0:
        raise _wrong(what, f"an empty array of shape {list(array.shape)}")
    _check_array(array, what)
    return array, "features" if array.ndim == 2 else "image"


def _check_array(array: npt.NDArray[Any], what: str) -> None:
    floating = array.dtype.kind == "f"
    image = array.ndim == 3 or (array.ndim == 4 and array.shape[-1] in (1, 3))
    if not (image and (floating or array.dtype == np.uint8)) and not (array.ndim == 2 and floating):
        first = array.ndim == 4 and array.shape[1] in (1, 3)
        remedy = "Move the channels last: numpy.moveaxis(x, 1, -1)." if first else None
        raise _wrong(what, f"{array.dtype} of shape {list(array.shape)}", remedy)
    if 0 in array.shape:
        raise _wrong(what, f"a shape without elements, {list(array.shape)}")
    if not floating:
        return
    finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if not finite.all():
        raise DataError(
            expected=f"finite values in {what}",
            got=f"NaN or infinity in {int((~finite).sum())} rows, first {int(finite.argmin())}",
            remedy="Drop or repair these rows.",
        )
    low, high = float(array.min()), float(array.max())
    if image and not 0.0 <= low <= high <= 1.0:
        raise DataError(
            expected=f"float images in [0, 1] in {what}",
            got=f"values from {low:g} to {high:g}",
            remedy="Divide by 255, or pass uint8; normalising is the backbone's part.",
        )


def _wrong(what: str, got: str, remedy: str | None = None) -> DataError:
    return DataError(
        expected=f"{what} as uint8 or float images [n H W] or [n H W 1|3], float features [n Q], "
        "texts, or image paths",
        got=got,
        remedy=remedy or "Convert the inputs to one of these forms.",
    )
