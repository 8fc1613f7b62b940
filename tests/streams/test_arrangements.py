"""Blurry, few-shot, long-tailed and repeated streams: who trains on what, and who tests what."""

from collections import Counter
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cpool import NCM, Learner, load_backbone
from cpool.errors import ConfigError, DataError, UnknownNameError
from cpool.streams import Stream, blurry, few_shot, load_stream, long_tailed, repeated, split_digits

ONE = {"blurry": blurry, "few_shot": few_shot, "long_tailed": long_tailed, "repeated": repeated}
SMALL: dict[str, dict[str, Any]] = {
    "blurry": {"tasks": 3},
    "few_shot": {"base_classes": 4, "ways": 2, "shots": 3},
    "long_tailed": {"tasks": 3, "imbalance": 4},
    "repeated": {"tasks": 3, "probability": 0.5},
}


def data(counts: list[int], test: int = 2) -> tuple[Any, Any, Any, Any]:
    """Feature rows that hold their own id."""
    y = np.repeat(np.arange(len(counts)), counts)
    y_test = np.repeat(np.arange(len(counts)), test)
    x = np.arange(len(y), dtype=float)[:, None]
    return x, y, len(y) + np.arange(len(y_test), dtype=float)[:, None], y_test


def ids(stream: Stream, split: str) -> list[int]:
    return [i for task in stream for i in getattr(task, split).ids.tolist()]


@pytest.mark.parametrize("name", sorted(ONE))
def test_what_holds_for_all_arrangements(name: str) -> None:
    counts = [20, 24, 31, 20, 26, 40, 22, 28]
    streams = [ONE[name](data(counts), seed=s, validation=0.2, **SMALL[name]) for s in (0, 0, 1)]
    assert streams[0].describe() == streams[1].describe() != streams[2].describe()
    assert ids(streams[0], "train") == ids(streams[1], "train") != ids(streams[2], "train")
    assert len({s.fingerprint for s in streams}) == 1
    for stream in streams:
        assert stream.arrangement["name"] == name and stream.name == f"data_{name}"
        assert sorted(ids(stream, "test")) == list(range(sum(counts), sum(counts) + 16))
        held = ids(stream, "validation")
        assert len(held) == sum(int(0.2 * n + 0.5) for n in counts)
        assert not set(held) & set(ids(stream, "train"))
        arrived: list[int] = []
        for task in stream:
            assert len(task.validation) and len(task.test)
            assert set(task.classes) == set(task.train.y.tolist())
            arrived += [c for c in task.classes if c not in arrived]
            for split in (task.train, task.validation, task.test):
                assert np.asarray(split.x)[:, 0].tolist() == split.ids.tolist()
                assert np.all(np.diff(split.ids) > 0)
        assert tuple(arrived) == stream.class_order
        # Validation and test data are of the same classes, so that one stands for the other.
        assert all(set(t.validation.y.tolist()) == set(t.test.y.tolist()) for t in stream)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 5),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    st.booleans(),
    st.integers(0, 2**40),
)
def test_blurry_is_what_the_ratios_say(
    tasks: int, disjoint: float, share: float, stochastic: bool, seed: int
) -> None:
    counts = [10 + 3 * i for i in range(12)]
    options: dict[str, Any] = {"disjoint": disjoint, "blurry": share, "stochastic": stochastic}
    stream = blurry(data(counts), tasks=tasks, seed=seed, validation=0, **options)
    assert sorted(ids(stream, "train")) == list(range(sum(counts)))
    home = {c: t.index for t in stream for c in np.unique(t.test.y).tolist()}
    assert sorted(home) == list(range(12))
    sizes = [Counter(home.values())[i] for i in range(tasks)]
    assert min(sizes) >= 2
    assert stochastic or max(sizes) - min(sizes) <= 1
    fixed = stream.arrangement["disjoint_classes"]
    assert len(fixed) == int(disjoint * 12 + 0.5)
    for c, n in enumerate(counts):
        where = {t.index: int((t.train.y == c).sum()) for t in stream if (t.train.y == c).any()}
        away = 0 if str(c) in fixed else min(int(share * n + 0.5), n - 1)
        assert where[home[c]] == n - away and sum(where.values()) == n


def test_blurred_examples_go_to_each_other_task_alike() -> None:
    counts = [400] * 8
    stream = blurry(data(counts), tasks=4, disjoint=0, blurry=0.75, stochastic=False, validation=0)
    for task in stream:
        own = np.unique(task.test.y)
        for c in own.tolist():
            there = [int((t.train.y == c).sum()) for t in stream if t.index != task.index]
            assert sum(there) == 300 and all(60 <= n <= 140 for n in there)


def test_stochastic_sizes_differ() -> None:
    sizes = {
        tuple(len(np.unique(t.test.y)) for t in blurry(data([4] * 20), tasks=4, seed=seed))
        for seed in range(8)
    }
    assert len(sizes) > 4 and all(sum(s) == 20 and min(s) >= 2 for s in sizes)


def test_few_shot_sessions() -> None:
    x, y, x_test, y_test = data([30] * 20)
    stream = few_shot((x, y, x_test, y_test), seed=2, validation=0.2)
    assert [len(t.classes) for t in stream] == [15, 5]  # about six in ten, the rest fives
    assert [t.name for t in stream] == ["base", "session 1"]
    assert [len(t.train) for t in stream] == [15 * 24, 25]
    assert set(Counter(stream[1].train.y.tolist()).values()) == {5}
    assert [len(t.validation) for t in stream] == [15 * 6, 30]
    sixty = few_shot(data([30] * 20), base_classes=12, ways=4, shots=1)
    assert [len(t.classes) for t in sixty] == [12, 4, 4]
    assert [len(t.train) for t in sixty] == [12 * 27, 4, 4]
    assert [len(t.classes) for t in few_shot(data([30] * 20), tasks=4, ways=2)] == [14, 2, 2, 2]


def test_few_shot_refuses_classes_in_no_session_unless_asked() -> None:
    with pytest.raises(ConfigError, match=r"6 \+ 2 x 4, which leaves 1 in no task. Use base_cl"):
        few_shot(data([10] * 15), base_classes=6, ways=4)
    stream = few_shot(data([10] * 15), base_classes=6, ways=4, allow_unused=True)
    assert [len(t.classes) for t in stream] == [6, 4, 4] and len(stream.class_names) == 14
    x = [(np.asarray(t.train.x)[:, 0], t.train.y) for t in stream]
    for rows, labels in x:
        assert [stream.class_names[c] for c in labels] == [str(int(r) // 10) for r in rows]


def test_few_shot_needs_enough_examples() -> None:
    with pytest.raises(
        DataError, match=r"5 training examples of each class beside.*got 4 of class"
    ):
        few_shot(data([5] * 10), validation=0.2)
    with pytest.raises(ConfigError, match="a base session and at least one of 5 classes"):
        few_shot(data([9] * 10), base_classes=9)
    with pytest.raises(ConfigError, match="a base session and at least one"):
        few_shot(data([9] * 10), base_classes=4, tasks=3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(5, 60), min_size=2, max_size=9), st.sampled_from([1, 3.5, 20, 1000]))
def test_long_tail_has_the_profile(counts: list[int], imbalance: float) -> None:
    stream = long_tailed(data(counts), tasks=2, imbalance=imbalance, order="ordered", validation=0)
    sizes = stream.arrangement["class_sizes"]
    order = [c for t in stream for c in t.classes]
    have = np.bincount(np.concatenate([t.train.y for t in stream]), minlength=len(counts))
    assert have.tolist() == sizes
    ordered = [sizes[c] for c in order]
    assert ordered == sorted(ordered, reverse=True)
    # n_i = n_0 ρ^(-i / (C - 1)): some class is used up, and every other follows from it.
    last = len(counts) - 1
    most = min(counts[c] / imbalance ** (-rank / last) for rank, c in enumerate(order))
    for rank, c in enumerate(order):
        exact = most * imbalance ** (-rank / last)
        assert sizes[c] <= counts[c] and abs(sizes[c] - max(1.0, exact)) <= 0.5 + 1e-9
    assert any(sizes[c] == counts[c] for c in order)


def test_long_tail_seeds() -> None:
    one = [long_tailed(data([50] * 10), seed=s, imbalance=10) for s in (0, 1)]
    assert one[0].arrangement["class_sizes"] == one[1].arrangement["class_sizes"]
    assert one[0].class_order != one[1].class_order and one[0].fingerprint == one[1].fingerprint
    other = long_tailed(data([50] * 10), imbalance=10, imbalance_seed=1)
    assert other.fingerprint != one[0].fingerprint
    assert other.arrangement["class_sizes"] != one[0].arrangement["class_sizes"]
    for bad in ({"imbalance": 0.5}, {"imbalance": float("inf")}):
        with pytest.raises(ConfigError, match="imbalance as a number from 1"):
            long_tailed(data([50] * 10), **bad)


def test_repetition() -> None:
    counts = [60] * 10
    never = repeated(data(counts), probability=0, validation=0)
    assert [len(t.classes) for t in never] == [2] * 5
    always = repeated(data(counts), probability=1, validation=0)
    assert [len(t.classes) for t in always] == [2, 4, 6, 8, 10]
    first = always[0].classes
    assert [int(np.isin(t.train.y, first).sum()) for t in always] == [24] * 5
    assert sorted(ids(always, "train")) == list(range(600))
    again = 0
    for seed in range(30):
        stream = repeated(data(counts), probability=0.3, seed=seed)
        again += sum(len(t.classes) - 2 for t in stream)
        assert [len(t.test) for t in stream] == [4] * 5
    # 2 · (4 + 3 + 2 + 1) = 20 chances a stream.
    assert abs(again / (30 * 20) - 0.3) < 0.06
    with pytest.raises(DataError, match=r"3 of class .* for 5 tasks. Lower the probability"):
        repeated(data([3] * 10), probability=1, validation=0)


def test_arrangements_of_registered_streams_and_of_streams() -> None:
    named = load_stream("blurry", of="split_digits", tasks=3, train_per_class=20, seed=1)
    given_ = blurry(split_digits(tasks=2, train_per_class=20, validation=0.5), tasks=3, seed=1)
    assert named.name == "split_digits_blurry" and len(named.joint().train) == 180
    assert ids(named, "train") == ids(given_, "train") and named.fingerprint == given_.fingerprint
    assert named[0].train.source == split_digits()[0].train.source
    tail = long_tailed("blurry", tasks=5, options={"of": "split_digits"}, imbalance=5)
    assert tail.name == "split_digits_blurry_long_tailed"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"of": "split_digit"}, UnknownNameError, "Did you mean 'split_digits'"),
        ({"of": "rotated_digits"}, ConfigError, "a class-incremental stream with its own labels"),
        ({"of": "label_noise", "options": {"of": "split_digits"}}, ConfigError, "label noise"),
        ({"of": "split_digits", "options": {"seed": 1}}, ConfigError, "Give seed beside `of`"),
        ({"of": "split_digits", "options": {"subset_seed": 1}}, ConfigError, "Give subset_seed"),
        ({"of": "split_digits", "options": {"tasks": 2}}, ConfigError, "makes the tasks itself"),
        ({"of": "split_digits", "options": {"scenario": "task"}}, ConfigError, "got scenario"),
        ({"of": "split_digits", "options": {"nope": 1}}, UnknownNameError, "nope"),
        ({"of": 3}, DataError, "a map-style data set"),
        ({"of": "split_digits", "tasks": 1}, ConfigError, "tasks from 2 to 10"),
        ({"of": "split_digits", "disjoint": 1.5}, ConfigError, "disjoint as a number in"),
        ({"of": "split_digits", "blurry": 1.0}, ConfigError, "blurry as a number in"),
        ({"of": "split_digits", "train_per_class": 0}, ConfigError, "train_per_class as a whole"),
    ],
)
def test_options_that_do_not_fit(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_stream("blurry", **options)


def test_a_stream_takes_no_options_of_its_data() -> None:
    with pytest.raises(ConfigError, match="train_per_class, options"):
        blurry(split_digits(), train_per_class=3, options={"by": "domain"})
    for options in ({"subset_seed": 2}, {"data": "."}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            blurry(split_digits(), **options)


@pytest.mark.parametrize("name", sorted(ONE))
def test_a_learner_runs_on_it(name: str) -> None:
    options = {"train_per_class": 20, "test_per_class": 5, **SMALL[name]}
    stream = load_stream(name, of="split_digits", **options)
    learner = Learner(NCM().build(load_backbone("embedded")), seed=0, quiet=True)
    assert learner.run(stream).summary()["average_accuracy"] > 0.5
    assert sorted(learner.classes) == list(range(10))
