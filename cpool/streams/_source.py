"""A data set before it is cut into tasks: checked training and test examples, and a fingerprint."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cpool.errors import ConfigError, DataError
from cpool.streams._checks import check_seed
from cpool.streams._inputs import from_dataset, to_inputs
from cpool.streams._labels import check_classes, to_labels
from cpool.streams._splits import draw_per_class
from cpool.streams.base import Examples, Inputs, Modality
from cpool.streams.paths import ImagePaths

__all__ = ["Source", "divide", "few_classes", "fingerprint", "read_source", "subset"]


@dataclass(frozen=True, eq=False)
class Source:
    """Training and test examples with labels 0..C-1, the C names, and the SHA-256 of all."""

    train: Examples
    test: Examples
    class_names: tuple[str, ...]
    modality: Modality
    fingerprint: str


def read_source(
    x: Any, y: Any, x_test: Any, y_test: Any, class_names: Sequence[str] | None = None
) -> Source:
    """Check inputs and labels; number training rows 0..n-1 and test rows from n on.

    With `x_test=None` the test examples are empty, for `divide` to fill.

    Raises:
        DataError: anything about the data that does not fit; see `to_inputs`, `to_labels` and
            `check_classes`.
    """
    inputs, labels, modality = _read(x, y, "the training data")
    if x_test is None:
        test_inputs, test_labels, test_modality = inputs[:0], labels[:0], modality
    else:
        test_inputs, test_labels, test_modality = _read(x_test, y_test, "the test data")
    if modality != test_modality:
        raise DataError(
            expected="training and test data of one kind",
            got=f"{modality} and {test_modality}",
            remedy="Give both in the same form.",
        )
    _same_row_shape(inputs, test_inputs)
    names = check_classes(labels, test_labels, class_names)
    digest = fingerprint(inputs, labels, test_inputs, test_labels, names)
    n, m = len(labels), len(test_labels)
    return Source(
        train=Examples(inputs, labels, np.arange(n, dtype=np.int64), digest),
        test=Examples(test_inputs, test_labels, np.arange(n, n + m, dtype=np.int64), digest),
        class_names=names,
        modality=modality,
        fingerprint=digest,
    )


def _read(x: Any, y: Any, what: str) -> tuple[Inputs, Any, Modality]:
    if y is None:
        x, y = from_dataset(x)
    inputs, modality = to_inputs(x, f"inputs of {what}")
    return inputs, to_labels(y, len(inputs), what), modality


def _same_row_shape(train: Inputs, test: Inputs) -> None:
    if not (isinstance(train, np.ndarray) and isinstance(test, np.ndarray)):
        return
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise DataError(
            expected=f"test inputs like the training inputs, {train.dtype} {train.shape[1:]}",
            got=f"{test.dtype} {test.shape[1:]}",
            remedy="Prepare both alike.",
        )


def fingerprint(*parts: Any) -> str:
    """Return the SHA-256 over arrays, texts, image files and names, in this order.

    >>> fingerprint(["a", "b"]) == fingerprint(["ab"])
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"array {part.dtype.str} {part.shape}\0".encode())
            digest.update(np.ascontiguousarray(part).view(np.uint8).data if part.size else b"")
        elif isinstance(part, ImagePaths):
            digest.update(f"files {len(part)}\0".encode())
            for path in part.paths:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        elif isinstance(part, str):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(f"text {len(data)}\0".encode() + data)
        else:
            digest.update(f"items {len(part)}\0".encode())
            for item in part:
                digest.update(bytes.fromhex(fingerprint(item)))
    return digest.hexdigest()


def divide(
    source: Source,
    test_fraction: float | int,
    seed: int,
    groups: npt.NDArray[np.int64] | None = None,
) -> Source:
    """Move a share of every class from the training examples to the (empty) test examples.

    Args:
        source: what to divide.
        test_fraction: the share, between 0 and 1.
        seed: draws the test examples.
        groups: numbers [n] of what to draw from apart, such as class and domain; else the labels.

    Raises:
        ConfigError: the fraction is not between 0 and 1.
        DataError: a class has fewer than two examples.
    """
    seed = check_seed(seed, "test_seed")
    groups = source.train.y if groups is None else groups
    number = isinstance(test_fraction, float | int) and not isinstance(test_fraction, bool)
    if not number or not 0.0 < test_fraction < 1.0:
        raise ConfigError(
            expected="test_fraction between 0 and 1, both excluded",
            got=repr(test_fraction),
            remedy="0.2 keeps a fifth of every class for the test.",
        )
    _, rows, counts = np.unique(groups, return_index=True, return_counts=True)
    if counts.min() < 2:
        label = source.train.y[rows[counts.argmin()]]
        raise DataError(
            expected="at least two examples of every class (and domain), one of them for the test",
            got=f"{counts.min()} of class {source.class_names[label]!r}",
            remedy="Add examples, or give test data of your own.",
        )
    chosen = draw_per_class(groups, float(test_fraction), (seed, 1))
    return _replaced(source, source.train.take(~chosen), source.train.take(chosen))


def subset(source: Source, train: int | None, test: int | None, seed: int) -> Source:
    """Keep at most so many examples of every class, drawn by `seed`; ids stay what they were.

    Raises:
        ConfigError: a number below 1.
    """
    if train is None and test is None:
        return source
    seed = check_seed(seed, "subset_seed")
    kept: list[Examples] = []
    for what, part, size in (("train", source.train, train), ("test", source.test, test)):
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigError(
                expected=f"{what}_per_class as a whole number from 1, or none for all",
                got=repr(size),
                remedy="Leave it out to use every example.",
            )
        tag = (seed, 2, len(kept))
        kept.append(part if size is None else part.take(draw_per_class(part.y, size, tag)))
    return _replaced(source, *kept)


def few_classes(source: Source, classes: int | None, seed: int) -> Source:
    """Keep so many classes, drawn by `seed`; they are numbered anew, in their old order.

    Raises:
        ConfigError: no whole number from 1 to the number of classes.
    """
    if classes is None:
        return source
    known = len(source.class_names)
    if isinstance(classes, bool) or not isinstance(classes, int) or not 1 <= classes <= known:
        raise ConfigError(
            expected=f"classes as a whole number from 1 to {known}, or none for all",
            got=repr(classes),
            remedy="Leave it out to use every class.",
        )
    drawn = np.random.default_rng((check_seed(seed, "subset_seed"), 3)).permutation(known)
    kept = np.sort(drawn[:classes])

    def some(part: Examples) -> Examples:
        rows = part.take(np.isin(part.y, kept))
        return replace(rows, y=np.searchsorted(kept, rows.y).astype(np.int64))

    return replace(
        source,
        train=some(source.train),
        test=some(source.test),
        class_names=tuple(source.class_names[label] for label in kept),
        fingerprint=fingerprint(source.fingerprint, kept),
    )


def _replaced(source: Source, train: Examples, test: Examples) -> Source:
    # The ids count in the whole source, so the kept ones say all about what was chosen.
    digest = fingerprint(source.fingerprint, train.ids, test.ids)
    return Source(train, test, source.class_names, source.modality, digest)
