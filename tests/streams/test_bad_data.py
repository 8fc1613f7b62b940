"""Inputs and labels that no stream can be made of: each is refused, and the message says why."""

from typing import Any

import numpy as np
import pytest
import torch

from cpool.errors import DataError
from cpool.streams import class_incremental

Y = np.array([0, 1, 0, 1])
X = np.zeros((4, 3))
IMAGES = np.zeros((4, 8, 8), np.uint8)
NAN = np.where(np.arange(12).reshape(4, 3) == 7, np.nan, 0.0)


def stream(x: Any = X, y: Any = Y, x_test: Any = None, y_test: Any = None, **options: Any) -> Any:
    test = (x if x_test is None else x_test, y if y_test is None else y_test)
    return class_incremental(x, y, *test, tasks=2, **options)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([], "an empty list"),
        (np.zeros((0, 3)), "an empty array of shape \\[0, 3\\]"),
        (np.zeros(4), "float64 of shape \\[4\\]"),
        (np.zeros((4, 3), int), "int64 of shape \\[4, 3\\]"),
        (np.zeros((4, 0)), "without elements"),
        (np.zeros((4, 8, 8), np.int32), "int32"),
        (np.zeros((4, 8, 8), bool), "bool"),
        (np.zeros((4, 8, 8, 4), np.uint8), "\\[4, 8, 8, 4\\]"),
        (np.zeros((4, 3, 8, 8), np.uint8), "Move the channels last"),
        (np.zeros((4, 2, 2, 2, 3), np.uint8), "\\[4, 2, 2, 2, 3\\]"),
        (np.full((4, 8, 8), 255.0), "values from 255 to 255. Divide by 255"),
        (np.full((4, 8, 8), -1.0), "float images in \\[0, 1\\]"),
        (NAN, "NaN or infinity in 1 rows, first 2"),
        (np.full((4, 3), np.inf), "NaN or infinity in 4 rows, first 0"),
        (np.full((4, 8, 8), np.nan), "NaN or infinity"),
        (["a", "", "b", "c"], "'' at position 1"),
        (["a", "b", " \n", "c"], "at position 2"),
        (["a", "b", 3, "c"], "int at position 2"),
        (np.array(["a", "b", "", "c"]), "at position 2"),
        ([[1.0, 2.0], [1.0], [1.0, 2.0], [1.0]], "float64 of shape|several lengths"),
        ([[[1], [1, 2]]] * 4, "nested lists"),
        ([np.zeros((8, 8), np.uint8)] * 3 + [np.zeros((9, 9), np.int8)], "position 3"),
        ([b"bytes"] * 4, "S5"),
        ("text", "got str"),
        (None, "got NoneType"),
        ({"a": 1}, "got dict"),
        (iter([1, 2]), "iterator"),
        (torch.zeros(4, 3, dtype=torch.int64), "int64"),
    ],
)
def test_inputs(x: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        stream(x=x)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.0, 1.0, 0.0, 1.0], "float64 of shape \\[4\\]. Number the classes"),
        (["a", "b", "a", "b"], "<U1"),
        ([True, False, True, False], "bool"),
        (np.eye(4, dtype=int), "\\[4, 4\\]"),
        ([0, 1, 0], "3 labels"),
        ([0, 1, 0, -1], "-1 at position 3"),
        ([0, 0, 0, 0], "at least two classes"),
        ([0, 2, 0, 2], "none for label 1"),
        ([0, 10**15, 0, 1], "none for labels 2, 3, 4, 5, 6, …"),
        (np.array([0, 1, 0, 2**64 - 1], np.uint64), "-1 at position 3"),
        (torch.tensor([0.0, 1.0, 0.0, 1.0]), "float32"),
    ],
)
def test_labels(y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        stream(y=y)


def test_test_data_must_match_training_data() -> None:
    with pytest.raises(DataError, match="label 2 only in test"):
        stream(y_test=[0, 1, 2, 1])
    with pytest.raises(DataError, match="features and text"):
        stream(x_test=["a", "b", "c", "d"])
    with pytest.raises(DataError, match=r"float64 \(5,\)"):
        stream(x_test=np.zeros((4, 5)))
    with pytest.raises(DataError, match="inputs of the test data"):
        stream(x_test=[])
    with pytest.raises(DataError, match="integer labels \\[n\\] in the test data"):
        stream(y_test=[0.5] * 4)
    with pytest.raises(DataError, match="2 and 0 in task '1'"):
        stream(y_test=[0, 0, 0, 0], validation=0, class_order=[1, 0])


def test_class_names_must_match_labels() -> None:
    with pytest.raises(DataError, match="labels below 1"):
        stream(class_names=["a"])
    with pytest.raises(DataError, match=r"none for label 2 \('c'\)"):
        stream(class_names=["a", "b", "c"])
    with pytest.raises(DataError, match="distinct class names"):
        stream(class_names=["a", "a"])
    with pytest.raises(DataError, match=r"1 \('b'\) only in test"):
        stream(y=[0, 0, 0, 0], y_test=Y, class_names=["a", "b"])


def test_data_sets_must_yield_pairs() -> None:
    with pytest.raises(DataError, match="ndarray at position 0"):
        class_incremental(X, None, X, Y, tasks=2)
    with pytest.raises(DataError, match="a map-style data set"):
        class_incremental(iter([]), None, X, Y, tasks=2)
    with pytest.raises(DataError, match="dict at position 1"):
        class_incremental([(X[0], 0), {"x": X[1]}], None, X, Y, tasks=2)


def test_good_borders() -> None:
    for x in (np.ones((4, 8, 8)), np.zeros((4, 8, 8, 1), np.float32), np.full((4, 3), -1e30)):
        assert sum(len(task.train) + len(task.validation) for task in stream(x=x)) == 4
    assert all(len(task.train) for task in stream(x=IMAGES, validation=0.999))
