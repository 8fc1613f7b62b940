"""Class- and task-incremental streams: division, order, splits, ids, fingerprint."""

from collections import Counter
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.utils.data import Dataset, TensorDataset

from cpool.errors import ConfigError, DataError
from cpool.streams import Stream, class_incremental, task_incremental


def build(counts: list[int], test: int = 1, **options: Any) -> Stream:
    """A stream of feature rows that hold their own row number."""
    y = np.repeat(np.arange(len(counts)), counts)
    y_test = np.repeat(np.arange(len(counts)), test)
    x, x_test = (np.arange(len(labels), dtype=float)[:, None] for labels in (y, y_test))
    return class_incremental(x, y, x_test, y_test, **options)


COUNTS = st.lists(st.integers(1, 12), min_size=2, max_size=9)


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.data())
def test_splits_are_disjoint_complete_and_stratified(counts: list[int], data: Any) -> None:
    tasks = data.draw(st.integers(1, len(counts)))
    seed = data.draw(st.integers(0, 2**40))
    fraction = data.draw(st.sampled_from([0, 0.1, 0.25, 0.5, 0.99]))
    stream = build(counts, test=2, tasks=tasks, seed=seed, validation=fraction)
    train = np.concatenate([np.r_[t.train.ids, t.validation.ids] for t in stream])
    test = np.concatenate([t.test.ids for t in stream])
    n = sum(counts)
    assert sorted(train) == list(range(n))
    assert sorted(test) == list(range(n, n + 2 * len(counts)))
    sizes = [len(task.classes) for task in stream]
    assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
    assert sorted(stream.class_order) == list(range(len(counts)))
    assert stream.class_order == tuple(c for task in stream for c in task.classes)
    for task in stream:
        for split in (task.train, task.validation, task.test):
            assert set(split.y.tolist()) <= set(task.classes)
            assert np.all(np.diff(split.ids) > 0)
        for c in task.classes:
            held = int((task.validation.y == c).sum())
            low = 0 if counts[c] == 1 else 1
            rounded = min(max(int(fraction * counts[c] + 0.5), low), counts[c] - 1)
            assert held == (rounded if fraction else 0)


@settings(max_examples=30, deadline=None)
@given(COUNTS, st.integers(0, 1000), st.data())
def test_same_seed_same_stream_and_inputs_follow_their_ids(
    counts: list[int], seed: int, data: Any
) -> None:
    tasks = data.draw(st.integers(1, len(counts)))
    first, second = (build(counts, tasks=tasks, seed=seed) for _ in range(2))
    assert first.describe() == second.describe()
    n = sum(counts)
    for a, b in zip(first, second, strict=True):
        for mine, other in ((a.train, b.train), (a.validation, b.validation), (a.test, b.test)):
            assert np.array_equal(mine.ids, other.ids) and np.array_equal(mine.x, other.x)
            rows = mine.ids if mine is not a.test else mine.ids - n
            assert np.asarray(mine.x)[:, 0].tolist() == rows.tolist()


def test_seed_moves_order_and_validation_but_not_ids_or_fingerprint() -> None:
    streams = [build([20] * 8, tasks=4, seed=seed) for seed in range(6)]
    assert len({s.class_order for s in streams}) == 6
    assert len({tuple(sorted(np.concatenate([t.validation.ids for t in s]))) for s in streams}) == 6
    assert len({s.fingerprint for s in streams}) == 1
    assert {t.train.source for s in streams for t in s} == {streams[0].fingerprint}


def test_validation_does_not_depend_on_the_order_of_classes() -> None:
    one = build([20] * 4, tasks=2, class_order=[0, 1, 2, 3])
    two = build([20] * 4, tasks=4, class_order=[3, 1, 0, 2])
    held = [sorted(np.concatenate([t.validation.ids for t in s]).tolist()) for s in (one, two)]
    assert held[0] == held[1]


def test_fingerprint_depends_on_every_value() -> None:
    x, y = np.zeros((4, 2, 2), np.uint8), [0, 0, 1, 1]
    changed = x.copy()
    changed[3, 1, 1] = 1
    options: dict[str, Any] = {"tasks": 2}
    prints = [
        class_incremental(*data, **options, class_names=names).fingerprint
        for data in ((x, y, x, y), (changed, y, x, y), (x, y, changed, y), (x, [0, 1, 1, 1], x, y))
        for names in (None, ["a", "b"])
    ]
    assert len(set(prints)) == 8
    texts = [["a", "b"], ["ab", "c"], ["a", "bc"]]
    assert len({class_incremental(t, [0, 1], t, [0, 1], tasks=2).fingerprint for t in texts}) == 3


def test_uneven_division_gives_the_first_tasks_one_more() -> None:
    assert [len(t.classes) for t in build([2] * 11, tasks=4)] == [3, 3, 3, 2]


def test_explicit_orders_by_label_name_and_list() -> None:
    names = ["cat", "dog", "eel", "fox"]
    for order in ([3, 0, 1, 2], ["fox", "cat", "dog", "eel"], np.array([3, 0, 1, 2])):
        stream = build([2] * 4, tasks=2, class_order=order, class_names=names)
        assert stream.class_order == (3, 0, 1, 2)
        assert [t.name for t in stream] == ["fox + cat", "dog + eel"]
    listed = build([2] * 4, tasks=[[3], ["cat", 1, 2]], class_names=names)
    assert [t.classes for t in listed] == [(3,), (0, 1, 2)]


def test_task_names() -> None:
    assert [t.name for t in build([2] * 8, tasks=2)] == ["task 0", "task 1"]
    assert [t.name for t in build([2] * 8, tasks=2, task_names=["a", "b"])] == ["a", "b"]
    with pytest.raises(ConfigError, match="2 task names"):
        build([2] * 8, tasks=2, task_names=["a"])
    with pytest.raises(DataError, match="a name of its own"):
        build([2] * 8, tasks=2, task_names=["a", "a"])


def test_task_incremental_is_the_same_but_for_the_scenario() -> None:
    x, y = np.zeros((8, 3)), np.arange(8) % 4
    one = class_incremental(x, y, x, y, tasks=2, name="s")
    two = task_incremental(x, y, x, y, tasks=2, name="s")
    assert (one.scenario, two.scenario) == ("class", "task")
    assert one.describe() | {"scenario": "task"} == two.describe()
    assert task_incremental(x, y, x, y, tasks=2).name == "task_incremental"


def test_inputs_in_every_form_give_one_stream() -> None:
    x = np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2)
    y = np.array([0, 1, 0, 1])

    class Pairs(Dataset[tuple[Any, Any]]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> tuple[Any, Any]:
            return x[i], int(y[i])

    tensors = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    forms = [
        (x, y),
        (torch.from_numpy(x), torch.from_numpy(y)),
        (list(x), y.tolist()),
        (tuple(torch.from_numpy(x)), tuple(y)),
        (x, y.astype(np.uint8)),
        (Pairs(), None),
        (tensors, None),
    ]
    streams = [class_incremental(*form, *form, tasks=2) for form in forms]
    assert len({s.fingerprint for s in streams}) == 1
    assert {np.asarray(s[0].train.x).dtype for s in streams} == {np.dtype(np.uint8)}
    assert all(s.modality == "image" and s[0].train.y.dtype == np.int64 for s in streams)


def test_tensors_with_channels_first_go_channels_last() -> None:
    x = torch.rand(4, 3, 8, 8)
    y = [0, 1, 0, 1]
    whole = class_incremental(x, y, x, y, tasks=1)
    items = TensorDataset(x, torch.tensor(y))
    read = class_incremental(items, None, items, None, tasks=1)
    assert np.asarray(whole[0].test.x).shape == (4, 8, 8, 3)
    assert whole.fingerprint == read.fingerprint
    assert np.array_equal(np.asarray(whole[0].test.x), x.permute(0, 2, 3, 1).numpy())


def test_modalities() -> None:
    y = [0, 1]
    forms = [np.zeros((2, 5), np.float32), np.zeros((2, 4, 4, 3)), ["a", "b"], np.array(["a", "b"])]
    found = [class_incremental(x, y, x, y, tasks=2).modality for x in forms]
    assert found == ["features", "image", "text", "text"]
    sizes = [np.zeros((4, 4), np.uint8), np.zeros((5, 6, 3), np.uint8)]
    mixed = class_incremental(sizes, y, sizes, y, tasks=2)
    assert mixed.modality == "image"
    assert {image.shape for image in mixed.joint().test.x} == {(4, 4), (5, 6, 3)}


def test_callers_arrays_and_the_global_generators_are_left_alone() -> None:
    x, y = np.zeros((8, 3)), np.arange(8) % 4
    before = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    stream = class_incremental(x, y, x, y, tasks=2)
    first = stream[0].train.x
    assert isinstance(first, np.ndarray)
    first[:] = 1
    assert x.max() == 0
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_every_order_is_reachable() -> None:
    orders = Counter(build([1, 1, 1], tasks=3, seed=s, validation=0).class_order for s in range(60))
    assert len(orders) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 5}, "tasks from 1 to 4"),
        ({"tasks": 0}, "tasks from 1 to 4"),
        ({"tasks": [[0, 1], [2]]}, "missing \\[3\\]"),
        ({"tasks": [[0, 1], [1, 2, 3]]}, "twice \\[1\\]"),
        ({"tasks": [[0, 1], [2, 3, 9]]}, "unknown \\[9\\]"),
        ({"tasks": [[0, 1, 2, 3], []]}, "a list of classes"),
        ({"tasks": [[0, 1], [2, 3]], "class_order": [0, 1, 2, 3]}, "both lists"),
        ({"tasks": 2, "class_order": [0, 1, 2]}, "missing \\[3\\]"),
        ({"tasks": 2, "class_order": [0, 1, 2, "emu"]}, "got 'emu'"),
        ({"tasks": 2, "seed": -1}, "seed as a whole number"),
        ({"tasks": 2, "validation": 1.0}, "in \\[0, 1\\)"),
        ({"tasks": 2, "validation": -0.1}, "in \\[0, 1\\)"),
        ({"tasks": 2, "validation": float("nan")}, "in \\[0, 1\\)"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build([2] * 4, **options)


def test_orders_differ_from_seed_to_seed() -> None:
    orders = [build([2] * 50, tasks=10, seed=s).class_order for s in range(5)]
    assert all(a != b for a, b in pairwise(orders))
