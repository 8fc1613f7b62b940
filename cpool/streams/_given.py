"""Any class data that a caller hands over becomes a checked source."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cpool.errors import ConfigError, DataError
from cpool.streams._hub import is_columnar, read_columns
from cpool.streams._inputs import from_dataset
from cpool.streams._labels import class_ids, sorted_names
from cpool.streams._source import Source, divide, fingerprint, read_source
from cpool.streams.base import Examples, Stream

__all__ = ["as_source", "keep_classes", "read_data"]


def read_data(
    data: Any,
    *,
    class_names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    test_fraction: float | int = 0.2,
    test_seed: int = 0,
) -> Source:
    """Check any class data: labels may be integers 0..C-1 or names, test data may be missing.

    Args:
        data: `(x, y, x_test, y_test)` or `(x, y)`; a map-style data set of (x, y) pairs (such as
            torchvision's); a data set with columns (such as `datasets.Dataset`); or
            `{"train": …, "test": …}` of any of these, `(x, y)` pairs included.
        class_names: one name a class; by default what the data set says, else the labels.
        columns: of inputs and labels, for data sets with columns.
        test_fraction: the share of every class for the test, where no test data is given.
        test_seed: draws this share.

    Raises:
        DataError: none of these forms, or anything that `read_source` refuses.

    >>> read_data((["a", "b", "c", "d"], ["no", "yes"] * 2), test_fraction=0.5).class_names
    ('no', 'yes')
    """
    if isinstance(data, Source):
        return data
    train, test = _splits(data)
    x, y, named = _pair(train, columns)
    x_test, y_test, _ = (None, None, None) if test is None else _pair(test, columns)
    names = class_names if class_names is not None else named
    texts = [*y, *(() if y_test is None else y_test)] if _are_names(y) else []
    if texts:
        names = sorted_names(texts) if names is None else names
        y, y_test = (None if part is None else class_ids(part, names) for part in (y, y_test))
    source = read_source(x, y, x_test, y_test, names)
    return source if test is not None else divide(source, test_fraction, test_seed)


def _splits(data: Any) -> tuple[Any, Any]:
    if isinstance(data, Mapping):
        if "train" not in data:
            raise DataError(
                expected='a "train" split, and a "test" split if there is one',
                got=f"the keys {', '.join(map(repr, data))}",
                remedy='Rename the splits: {"train": …, "test": …}.',
            )
        return data["train"], data.get("test")
    if isinstance(data, tuple | list) and len(data) == 4:
        return tuple(data[:2]), tuple(data[2:])
    return data, None


def _pair(split: Any, columns: Sequence[str] | None) -> tuple[Any, Any, list[str] | None]:
    if is_columnar(split):
        return read_columns(split, columns)
    if columns is not None:
        raise ConfigError(
            expected="columns only with a data set that has them",
            got=f"columns={list(columns)} for {type(split).__name__}",
            remedy="Leave columns out.",
        )
    if isinstance(split, tuple | list):
        if len(split) != 2:
            got = f"a {type(split).__name__} of {len(split)}"
            remedy = "Pass (x, y, x_test, y_test), a data set, or a mapping of splits."
            raise DataError(expected="a pair (x, y)", got=got, remedy=remedy)
        x, y = split
        return x, list(y) if isinstance(y, tuple) else y, None
    x, y = from_dataset(split)
    named = getattr(split, "classes", None)
    return x, y, None if named is None else [str(name) for name in named]


def _are_names(y: Any) -> bool:
    first = y[0] if isinstance(y, Sequence | np.ndarray) and len(y) else None
    return isinstance(first, str)


def as_source(stream: Stream) -> Source:
    """Return the data of a class-incremental stream as one source, with the ids that it has.

    Raises:
        ConfigError: a domain-incremental stream, or one whose labels noise has changed.
    """
    if stream.scenario == "domain" or stream.true_labels:
        raise ConfigError(
            expected="a class-incremental stream with its own labels",
            got=f"{stream.name!r}, "
            + ("domain-incremental" if stream.scenario == "domain" else "with label noise"),
            remedy="Use online or gradual_drift with domains; add label noise as the last step.",
        )
    whole = stream.joint()
    train = Examples.concat([whole.train, whole.validation])
    train, test = (part.take(np.argsort(part.ids)) for part in (train, whole.test))
    return Source(train, test, stream.class_names, stream.modality, stream.fingerprint)


def keep_classes(source: Source, classes: Sequence[int | str]) -> Source:
    """Return the data of some of the classes, with labels 0, 1, … in the order given.

    Raises:
        ConfigError: fewer than two classes, one twice, or one that the data does not have.
    """
    known = {name: i for i, name in enumerate(source.class_names)}
    labels = [known.get(c, -1) if isinstance(c, str) else c for c in classes]
    distinct = len(set(labels)) == len(labels) >= 2
    if not distinct or not all(0 <= label < len(known) for label in labels):
        raise ConfigError(
            expected=f"at least two of the {len(known)} classes, each once",
            got=repr(list(classes)),
            remedy=f"The classes are {', '.join(list(known)[:10])}, …",
        )
    new = np.full(len(known), -1, dtype=np.int64)
    new[labels] = np.arange(len(labels))
    kept = []
    for part in (source.train, source.test):
        some = part.take(np.isin(part.y, labels))
        kept.append(Examples(some.x, new[some.y], some.ids, some.source))
    digest = fingerprint(source.fingerprint, kept[0].ids, kept[1].ids, np.array(labels))
    names = tuple(source.class_names[label] for label in labels)
    return Source(kept[0], kept[1], names, source.modality, digest)
