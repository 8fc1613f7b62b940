"""Labels: what classes are called, and the whole numbers that a learner knows them by."""

from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Int
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, unique_labels

from cpool.errors import DataError

__all__ = ["Labels", "as_labels"]

Array = npt.NDArray[Any]


def as_labels(y: Any) -> Array:
    """Return labels as a vector of strings, whole numbers or truth values.

    Raises:
        ValueError: as of scikit-learn: no vector, NaN, or numbers that are no labels.
    """
    vector: Array = column_or_1d(y, warn=True)
    assert_all_finite(vector, input_name="y")
    check_classification_targets(vector)
    return vector


class Labels:
    """Numbers labels in the order in which they come, those of one call sorted.

    A number stays what it is when further labels come, so that it can be the class of a learner.

    Args:
        classes: all labels that will ever come, if that is known: then no other may.

    >>> labels = Labels()
    >>> labels.encode(np.array(["dog", "cat"])).tolist(), labels.encode(np.array(["cow"])).tolist()
    ([1, 0], [2])
    """

    def __init__(self, classes: Any = None) -> None:
        self.fixed = classes is not None
        self.known: Array = unique_labels(classes) if self.fixed else np.empty(0)

    def check(self, y: Array, classes: Any = None) -> None:
        """Refuse labels that cannot come now.

        Args:
            y: labels of a task, [n].
            classes: what the caller says may come.

        Raises:
            DataError: labels outside of `classes`, other `classes` than at the first call, or
                words where there were numbers.
        """
        if classes is not None:
            given = unique_labels(classes)
            self._need_kind(given)
            if self.fixed and not np.array_equal(given, self.known):
                raise DataError(
                    expected=f"classes as at the first call, {_said(self.known)}",
                    got=_said(given),
                    remedy="Leave classes out, or name the same ones at every call.",
                )
            _need(y, given)
        if self.fixed:
            _need(y, self.known)
        self._need_kind(y)

    def _need_kind(self, labels: Array) -> None:
        if len(self.known) and _is_text(labels) != _is_text(self.known):
            raise DataError(
                expected=f"labels of one kind, such as {_said(self.known)}",
                got=_said(labels),
                remedy="Name classes by strings in all tasks, or by numbers in all.",
            )

    def encode(self, y: Array) -> Int[np.ndarray, " n"]:
        """Return the number of each label; labels that are new get the next ones."""
        labels, inverse = np.unique(y, return_inverse=True)
        if not len(self.known):
            self.known = labels  # of their own type
        new = labels[~np.isin(labels, self.known)]
        self.known = np.concatenate([self.known, new])
        order = np.argsort(self.known)
        found = order[np.searchsorted(self.known, labels, sorter=order)]
        numbers: npt.NDArray[np.int64] = found[inverse].astype(np.int64)
        return numbers

    def __len__(self) -> int:
        """Return how many labels have a number."""
        return len(self.known)

    def named(self, numbers: Any) -> Array:
        """Return the labels of some numbers."""
        labels: Array = self.known[np.asarray(numbers, dtype=np.int64)]
        return labels

    def columns(self, numbers: Any) -> Array:
        """Return the labels that have a column: those of some numbers, or all if fixed; sorted."""
        return np.unique(self.known if self.fixed else self.named(numbers))


def _is_text(labels: Array) -> bool:
    return labels.dtype.kind not in "biuf"


def _need(y: Array, allowed: Array) -> None:
    labels = np.unique(y)
    if _is_text(labels) == _is_text(allowed):
        labels = labels[~np.isin(labels, allowed)]
    if len(labels):
        raise DataError(
            expected=f"labels of the classes {_said(allowed)}",
            got=_said(labels),
            remedy="Name all classes, or leave classes out: new ones may then come at any call.",
        )


def _said(labels: Array) -> str:
    shown = ", ".join(repr(label) for label in np.unique(labels)[:8].tolist())
    return shown + (", …" if len(np.unique(labels)) > 8 else "")
