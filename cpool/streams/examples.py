"""Examples: inputs, labels and sample ids of one split of one task."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cpool._io import sha256_of_bytes
from cpool.errors import DataError

__all__ = ["Examples", "Inputs"]

Inputs = npt.NDArray[Any] | Sequence[Any]
"""What a split may hold: an array with examples along axis 0, texts, or a lazy sequence."""


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """One split of one task, in the order of the source data; n examples, maybe none.

    Attributes:
        x: raw inputs: uint8 images or float images in [0, 1], [n H W] or [n H W 1|3]; float
            feature rows [n Q]; a list of texts; a list of images of several sizes; or a lazy
            sequence of images (`ImagePaths`).
        y: class labels of the whole stream, 0..C-1, int64 [n].
        ids: sample ids, int64 [n]; unique in a stream, and the same for every seed and order of
            classes, so that what is computed once for a sample can be kept under its id.
        source: SHA-256 of the data in which `ids` count; two splits with one source and one id
            hold the very same input.
        completions: what shall follow each text, where a language model learns that; else None.

    Raises:
        DataError: lengths differ, or labels or ids are not int64 vectors.

    >>> some = Examples(["a", "b"], np.array([0, 1]), np.array([0, 1]), source="0" * 64)
    >>> some.take([1]).x, some.take([1]).y.tolist(), len(some)
    (['b'], [1], 2)
    >>> some
    Examples(2 texts, classes 0, 1, source='00000000…')
    """

    x: Inputs
    y: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    source: str
    completions: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be one split."""
        for name, vector in (("y", self.y), ("ids", self.ids)):
            if vector.ndim != 1 or vector.dtype != np.int64:
                raise DataError(
                    expected=f"{name} as an int64 vector [n]",
                    got=f"{vector.dtype} of shape {list(vector.shape)}",
                    remedy="Cast it with numpy.asarray(…, dtype=numpy.int64).",
                )
        if not len(self.x) == len(self.y) == len(self.ids):
            raise DataError(
                expected="as many labels and ids as inputs",
                got=f"{len(self.x)} inputs, {len(self.y)} labels, {len(self.ids)} ids",
                remedy="Give one label and one id for every input.",
            )
        if self.completions is not None and len(self.completions) != len(self.y):
            raise DataError(
                expected=f"a completion for each of {len(self.y)} texts",
                got=f"{len(self.completions)}",
                remedy="Give both, in the same order.",
            )

    def __len__(self) -> int:
        """Return n."""
        return len(self.y)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Yield (input, label) pairs, as a data set would."""
        return iter((self.x[i], int(self.y[i])) for i in range(len(self)))

    def __repr__(self) -> str:
        """Say how many examples of what kind, not the data."""
        classes = np.unique(self.y)
        shown = ", ".join(str(c) for c in classes[:5]) + (", …" if len(classes) > 5 else "")
        return (
            f"Examples({len(self)} {_kind(self.x)}, classes {shown or 'none'}, "
            f"source={self.source[:8] + '…'!r})"
        )

    def digest(self, *, labels: bool = False) -> str:
        """Return a SHA-256 of which inputs these are, and with `labels` of which classes.

        >>> one = Examples(["a", "b"], np.array([0, 1]), np.array([0, 1]), source="0" * 64)
        >>> one.digest() == one.take([0, 1]).digest(), one.digest() == one.take([1, 0]).digest()
        (True, False)
        """
        rows = self.ids.tobytes() + (self.y.tobytes() if labels else b"")
        return sha256_of_bytes(self.source.encode() + rows)

    def take(self, indices: Any) -> "Examples":
        """Return the examples at `indices` (integers [m], or a boolean mask [n]), in that order.

        Raises:
            DataError: an index is out of range, or the indices are neither integers nor a mask.
        """
        chosen = self._rows(indices)
        said = self.completions
        return Examples(
            _take(self.x, chosen),
            self.y[chosen],
            self.ids[chosen],
            self.source,
            None if said is None else [said[i] for i in chosen.tolist()],
        )

    def _rows(self, indices: Any) -> npt.NDArray[np.int64]:
        rows = np.asarray(indices)
        if rows.size == 0 and rows.dtype != np.bool_:
            return np.empty(0, dtype=np.int64)
        if rows.dtype == np.bool_ and rows.shape == (len(self),):
            return np.flatnonzero(rows).astype(np.int64)
        integers = rows.ndim == 1 and np.issubdtype(rows.dtype, np.integer)
        if not integers or rows.min() < -len(self) or rows.max() >= len(self):
            raise DataError(
                expected=f"row numbers below {len(self)}, or a boolean mask of that length",
                got=f"{rows.dtype} of shape {list(rows.shape)}"
                + (f" from {rows.min()} to {rows.max()}" if integers else ""),
                remedy="Index rows of this split, not sample ids.",
            )
        return rows.astype(np.int64) % len(self)

    @staticmethod
    def concat(parts: Sequence["Examples"]) -> "Examples":
        """Return the examples of all `parts` of one source, one after the other.

        Raises:
            DataError: no parts, or parts of several sources (their ids would collide).
        """
        sources = {part.source for part in parts}
        if len(sources) != 1:
            raise DataError(
                expected="at least one part, all from one source",
                got=f"{len(parts)} parts from {len(sources)} sources",
                remedy="Join arrays of several sources yourself and build one stream of them.",
            )
        told = [part.completions for part in parts if part.completions is not None]
        return Examples(
            _concat([part.x for part in parts]),
            np.concatenate([part.y for part in parts]),
            np.concatenate([part.ids for part in parts]),
            parts[0].source,
            None if len(told) < len(parts) else [one for said in told for one in said],
        )


def _take(x: Inputs, rows: npt.NDArray[np.int64]) -> Inputs:
    if isinstance(x, np.ndarray):
        return x[rows]
    if hasattr(x, "take"):  # lazy sequences select without loading
        return x.take(rows)  # type: ignore[no-any-return]
    return [x[i] for i in rows.tolist()]


def _concat(parts: Sequence[Inputs]) -> Inputs:
    first = parts[0]
    if isinstance(first, np.ndarray):
        return np.concatenate([np.asarray(part) for part in parts])
    if hasattr(first, "concat"):
        return first.concat(parts)  # type: ignore[no-any-return]
    return [item for part in parts for item in part]


def _kind(x: Inputs) -> str:
    if isinstance(x, np.ndarray):
        return f"{x.dtype} [{' '.join(str(s) for s in x.shape[1:])}]"
    return "texts" if len(x) and isinstance(x[0], str) else "inputs"
