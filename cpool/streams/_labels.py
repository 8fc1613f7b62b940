"""Labels become int64 in 0..C-1, checked once; every class has something to learn from."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cpool.errors import DataError
from cpool.streams._inputs import to_array

__all__ = ["check_classes", "class_ids", "sorted_names", "to_labels"]


def to_labels(value: Any, n: int, what: str) -> npt.NDArray[np.int64]:
    """Return `value` as int64 [n].

    Raises:
        DataError: not integers, not one for each of the n inputs, or negative.
    """
    array = to_array(value)
    labels = np.asarray(value) if array is None else array
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            expected=f"integer labels [n] in {what}",
            got=f"{labels.dtype} of shape {list(labels.shape)}",
            remedy="Number the classes from 0, cast to int64, and give names as class_names=.",
        )
    if len(labels) != n:
        raise DataError(
            expected=f"one label in {what} for each of {n} inputs",
            got=f"{len(labels)} labels",
            remedy="Check that inputs and labels come from the same rows.",
        )
    labels = labels.astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise DataError(
            expected=f"labels in {what} from 0",
            got=f"{labels.min()} at position {labels.argmin()}",
            remedy="Number the classes from 0 to C-1; drop rows without a class.",
        )
    return labels


def check_classes(
    train: npt.NDArray[np.int64], test: npt.NDArray[np.int64], class_names: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the C class names, by default "0", "1", ….

    Raises:
        DataError: a label beyond the names, a test class that training lacks, a class without
            training examples, names that repeat, or fewer than two classes.
    """
    trained = set(np.unique(train).tolist())
    count = max(trained) + 1
    names: tuple[str, ...] | None = None
    if class_names is not None:
        if isinstance(class_names, str) or len(set(class_names)) != len(class_names):
            got = repr(class_names)
            raise _bad("a list of distinct class names", got, "Give one name a class.")
        names = tuple(str(name) for name in class_names)
        count, high = len(names), int(max(train.max(), test.max(initial=0)))
        if high >= count:
            remedy = "Name every class, or correct the label."
            raise _bad(f"labels below {count}, the number of class names", f"{high}", remedy)
    unseen = sorted(set(np.unique(test).tolist()) - trained)
    if unseen:
        remedy = "Add training examples of these classes or drop them from the test data."
        got = f"{_shown(unseen, names)} only in test"
        raise _bad("test labels that occur in training", got, remedy)
    # Lazily: one huge label by mistake must not become a list of that length.
    missing = list(itertools.islice((i for i in range(count) if i not in trained), 6))
    if missing:
        remedy = "Number the classes without gaps, or add training examples."
        got = f"none for {_shown(missing, names)}"
        raise _bad(f"training examples for each of {count} classes", got, remedy)
    if count < 2:
        raise _bad("at least two classes", f"{count}", "Add examples of another class.")
    return tuple(str(i) for i in range(count)) if names is None else names


def _shown(labels: Sequence[int], names: Sequence[str] | None) -> str:
    some = [str(i) if names is None else f"{i} ({names[i]!r})" for i in labels[:5]]
    return f"label{'s' * (len(labels) > 1)} {', '.join(some)}{', …' * (len(labels) > 5)}"


def _bad(expected: str, got: str, remedy: str) -> DataError:
    return DataError(expected=expected, got=got, remedy=remedy)


def sorted_names(names: Sequence[str]) -> list[str]:
    """Return the distinct names in order; whole numbers by value, so that "10" follows "9".

    >>> sorted_names(["10", "9", "9"]), sorted_names(["b", "a", "10"])
    (['9', '10'], ['10', 'a', 'b'])
    """
    distinct = set(names)
    if all(name.isascii() and name.isdigit() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def class_ids(labels: Sequence[str], names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the position of each label in `names`, int64 [n].

    Raises:
        DataError: a label that is none of the names.
    """
    position = {name: i for i, name in enumerate(names)}
    strange = sorted(set(labels) - set(position))
    if strange:
        got = f"{strange[:5]}"
        raise _bad(f"labels among the {len(position)} classes", got, "Check the label column.")
    return np.array([position[label] for label in labels], dtype=np.int64)
