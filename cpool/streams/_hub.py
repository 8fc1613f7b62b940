"""Data sets of the `datasets` library, and what has the same protocol: columns and features."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cpool.errors import ConfigError, DataError

__all__ = ["is_columnar", "read_columns"]

_INPUTS = ("text", "sentence", "utterance", "query", "image", "img")
_LABELS = ("label", "labels", "intent", "fine_label", "category")


def is_columnar(value: Any) -> bool:
    """Return whether `value` has named columns and features, as a `datasets.Dataset` has."""
    return hasattr(value, "column_names") and hasattr(value, "features")


def read_columns(
    dataset: Any, columns: Sequence[str] | None = None
) -> tuple[list[Any], Any, list[str] | None]:
    """Read inputs and labels, and the class names if the label column's feature has them.

    Args:
        dataset: has a length, `column_names`, `features` and columns under their names.
        columns: the columns of inputs and labels; by default the only one of each kind that has
            a usual name, or whose feature names its classes.

    Raises:
        DataError: a data set without a length, or columns that cannot be told apart.
        ConfigError: a column that is not there.
    """
    names = dataset.column_names
    if not isinstance(names, Sequence) or isinstance(names, str) or not hasattr(dataset, "__len__"):
        raise DataError(
            expected="one split with a length and named columns",
            got=type(dataset).__name__,
            remedy='Pass {"train": …, "test": …} of map-style splits; read streamed ones first.',
        )
    if columns is None:
        columns = _guess(dataset)
    for column in columns:
        if column not in names:
            raise ConfigError(
                expected="columns of the data set for inputs and labels",
                got=repr(column),
                remedy=f"It has {', '.join(map(repr, names))}.",
            )
    inputs, labels = ([_plain(value) for value in dataset[column]] for column in columns)
    classes = getattr(dataset.features[columns[1]], "names", None)
    return inputs, labels, None if classes is None else [str(name) for name in classes]


def _guess(dataset: Any) -> tuple[str, str]:
    names, features = list(dataset.column_names), dataset.features
    labels = [n for n in names if getattr(features[n], "names", None) is not None]
    labels = labels or [n for n in names if n in _LABELS]
    inputs = [n for n in names if n in _INPUTS]
    if len(inputs) != 1 or len(labels) != 1:
        raise DataError(
            expected="one column of inputs and one of labels",
            got=f"the columns {', '.join(map(repr, names))}",
            remedy='Name both: columns=["text", "label"].',
        )
    return inputs[0], labels[0]


def _plain(value: Any) -> Any:
    """Return PIL images as uint8 arrays, grey or RGB, and anything else as it is."""
    if not hasattr(value, "getbands"):
        return value
    return np.asarray(value if value.mode in ("L", "RGB") else value.convert("RGB"))
