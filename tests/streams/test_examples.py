"""Examples: what they hold, how they are cut and joined, what they refuse."""

import numpy as np
import pytest

from cpool.errors import DataError
from cpool.streams import Examples, ImagePaths


def make(n: int, source: str = "a" * 64, start: int = 0) -> Examples:
    ids = np.arange(start, start + n)
    return Examples([f"text {i}" for i in ids], ids % 3, ids, source)


def test_take_by_index_mask_and_negative_index() -> None:
    examples = make(5)
    assert examples.take([3, 1]).x == ["text 3", "text 1"]
    assert examples.take(np.array([True, False, False, True, False])).ids.tolist() == [0, 3]
    assert examples.take([-1]).ids.tolist() == [4]
    assert examples.take([2, 2]).ids.tolist() == [2, 2]


def test_take_nothing_keeps_kind_and_source() -> None:
    images = Examples(np.zeros((2, 4, 4), np.uint8), np.arange(2), np.arange(2), "s")
    none = images.take([])
    assert len(none) == 0 and none.source == "s"
    assert isinstance(none.x, np.ndarray) and none.x.shape == (0, 4, 4)
    assert make(2).take(np.zeros(2, bool)).x == []


def test_take_does_not_share_memory() -> None:
    images = Examples(np.zeros((2, 4, 4), np.uint8), np.arange(2), np.arange(2), "s")
    part = images.take([0])
    assert isinstance(part.x, np.ndarray) and isinstance(images.x, np.ndarray)
    part.x[:] = 7
    assert images.x.max() == 0


@pytest.mark.parametrize("indices", [[5], [-6], [0.5], [[0, 1]], [True, False]])
def test_take_refuses(indices: object) -> None:
    with pytest.raises(DataError, match="row numbers below 5"):
        make(5).take(indices)


def test_concat_texts_arrays_and_files() -> None:
    joined = Examples.concat([make(2), make(3, start=2)])
    assert joined.ids.tolist() == [0, 1, 2, 3, 4] and joined.x[4] == "text 4"
    zeros = np.zeros((2, 4, 4), np.uint8)
    arrays = [Examples(zeros, np.arange(2), np.arange(i, i + 2), "s") for i in (0, 2)]
    assert isinstance(Examples.concat(arrays).x, np.ndarray)
    files = [Examples(ImagePaths([f"{i}.png"]), np.array([0]), np.array([i]), "s") for i in (0, 1)]
    paths = Examples.concat(files).x
    assert isinstance(paths, ImagePaths) and [p.name for p in paths.paths] == ["0.png", "1.png"]


def test_concat_refuses_nothing_and_several_sources() -> None:
    with pytest.raises(DataError, match="0 sources"):
        Examples.concat([])
    with pytest.raises(DataError, match="2 sources"):
        Examples.concat([make(2), make(2, source="b" * 64)])


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="2 inputs, 3 labels, 3 ids"):
        Examples(["a", "b"], np.arange(3), np.arange(3), "s")


def test_iterates_over_pairs_and_prints_no_data() -> None:
    assert list(make(2)) == [("text 0", 0), ("text 1", 1)]
    images = Examples(np.zeros((9, 4, 4), np.uint8), np.arange(9), np.arange(9), "ab" * 32)
    assert repr(images) == ("Examples(9 uint8 [4 4], classes 0, 1, 2, 3, 4, …, source='abababab…')")
    assert "0 inputs, classes none" in repr(make(0))
