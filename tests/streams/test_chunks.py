"""Online and gradually drifting streams, and label noise on any stream."""

from typing import Any

import numpy as np
import pytest

from cpool import NCM, Learner, load_backbone
from cpool.errors import ConfigError
from cpool.streams import (
    Stream,
    class_incremental,
    domain_incremental,
    gradual_drift,
    label_noise,
    load_stream,
    online,
    split_digits,
)


def ids(stream: Stream, split: str) -> list[int]:
    return sorted(i for task in stream for i in getattr(task, split).ids.tolist())


def two_domains(n: int = 100, m: int = 40) -> Stream:
    """Domain 0 has ids below n + m, domain 1 those from there on."""
    y, y_test = np.arange(n) % 4, np.arange(m) % 4
    x, x_test = np.zeros((n, 2)), np.zeros((m, 2))
    return domain_incremental([(x, y, x_test, y_test), (x + 1, y, x_test + 1, y_test)])


def test_online_sees_every_example_once() -> None:
    below = split_digits(tasks=3, seed=4, validation=0.2)
    stream = online(below, samples=30, seed=4)
    for split in ("train", "validation", "test"):
        assert ids(stream, split) == ids(below, split)
    sizes = [len(t.train) for t in stream]
    assert set(sizes[:-1]) >= {30} and all(30 <= n < 60 for n in sizes)
    starts = [b[0] for b in stream.arrangement["boundaries"]]
    assert len(starts) == 2
    home = {int(i): t.index for t in below for i in (*t.train.ids, *t.test.ids, *t.validation.ids)}
    for task in stream:
        below_index = sum(task.index >= start for start in starts)
        for split in (task.train, task.validation, task.test):
            assert {home[int(i)] for i in split.ids} <= {below_index}
            assert set(split.y.tolist()) <= set(task.classes)
        assert set(task.train.y.tolist()) == set(task.classes)
    # Dealt evenly, within a task.
    first = [len(t.test) for t in stream if t.index < starts[0]]
    assert max(first) - min(first) <= 1
    assert stream.fingerprint == below.fingerprint and stream.name == "split_digits_online"
    assert stream.class_order == tuple(dict.fromkeys(c for t in stream for c in t.classes))


def test_online_order_is_seeded_and_mixes_a_task() -> None:
    streams = [online("split_digits", tasks=1, seed=s, samples=100) for s in (0, 0, 1)]
    first = [s[0].train.ids.tolist() for s in streams]
    assert first[0] == first[1] != first[2]
    assert max(first[0]) > 1200 and min(first[0]) < 200


def test_online_of_a_blurry_stream_and_of_domains() -> None:
    stream = load_stream(
        "online", of="blurry", tasks=3, samples=60, options={"of": "split_digits", "blurry": 0.3}
    )
    assert stream.arrangement["of"]["name"] == "blurry" and len(ids(stream, "test")) == 360
    domains = online(two_domains(), samples=20)
    assert all(t.classes == (0, 1, 2, 3) for t in domains) and domains.scenario == "domain"
    assert {len(t.test) for t in domains} == {10}


def test_too_small_experiences_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one test example for each of 257 experiences"):
        online("split_digits", samples=5, test_per_class=10)
    with pytest.raises(ConfigError, match="samples as a whole number from 1"):
        online("split_digits", samples=0)
    with pytest.raises(ConfigError, match=r"these options only where.*got tasks"):
        online(split_digits(), tasks=3)


@pytest.mark.parametrize(("samples", "width"), [(10, 4), (10, 5), (9, 4), (7, 3), (10, 1), (10, 0)])
def test_the_proportion_slides_from_one_domain_to_the_next(samples: int, width: int) -> None:
    stream = gradual_drift(two_domains(), samples=samples, transition=width, seed=3)
    assert ids(stream, "train") == ids(two_domains(), "train")
    assert ids(stream, "test") == ids(two_domains(), "test")
    ((start, end),) = stream.arrangement["boundaries"]
    assert end - start == width
    for task in stream:
        new = int((task.train.ids >= 140).sum())
        if task.index < start:
            assert new == 0 and len(task.train) >= samples
        elif task.index >= end:
            assert new == len(task.train) >= samples
        else:
            share = (task.index - start + 0.5) / width
            assert len(task.train) == samples and abs(new - share * samples) <= 0.5
            assert "→" in task.name
        tested = set((task.test.ids >= 140).tolist())
        assert tested <= {bool(new), new == len(task.train)}


def test_drift_over_several_tasks_of_classes() -> None:
    stream = gradual_drift("split_digits", tasks=3, samples=25, transition=2, seed=1)
    bounds = stream.arrangement["boundaries"]
    assert len(bounds) == 2 and bounds[0][1] < bounds[1][0] < len(stream)
    below = split_digits(tasks=3, seed=1)
    assert stream[bounds[0][0]].classes == tuple(
        c for c in (*below[0].classes, *below[1].classes) if c in stream[bounds[0][0]].train.y
    )
    assert ids(stream, "train") == ids(below, "train")
    assert ids(stream, "validation") == ids(below, "validation")
    with pytest.raises(ConfigError, match="fewer samples or a shorter transition"):
        gradual_drift("split_digits", samples=50, transition=12)
    with pytest.raises(ConfigError, match="transition as a whole number from 0"):
        gradual_drift("split_digits", transition=-1)


@pytest.mark.parametrize("name", ["online", "gradual_drift", "label_noise"])
def test_a_learner_runs_on_it(name: str) -> None:
    options: dict[str, Any] = {} if name == "label_noise" else {"samples": 40}
    options |= {"train_per_class": 40, "test_per_class": 8}
    if name == "gradual_drift":
        options["transition"] = 1
    stream = load_stream(name, of="split_digits", tasks=2, **options)
    learner = Learner(NCM().build(load_backbone("embedded")), seed=0, quiet=True)
    assert learner.run(stream).summary()["average_accuracy_weighted"] > 0.8


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_label_noise_changes_training_labels_only(kind: Any) -> None:
    clean = split_digits(tasks=2, validation=0.2)
    noisy = label_noise(clean, noise=0.3, kind=kind)
    changed = 0
    for a, b in zip(clean, noisy, strict=True):
        assert a.classes == b.classes and set(b.train.y.tolist()) == set(a.classes)
        assert np.array_equal(a.test.y, b.test.y) and np.array_equal(a.validation.y, b.validation.y)
        assert np.array_equal(a.train.ids, b.train.ids)
        assert np.array_equal(np.asarray(a.train.x), np.asarray(b.train.x))
        assert np.array_equal(noisy.clean_labels(b.train), a.train.y)
        assert np.array_equal(noisy.clean_labels(b.test), a.test.y)
        for c in a.classes:
            mine = a.train.y == c
            wrong = b.train.y[mine][b.train.y[mine] != c]
            assert len(wrong) == int(0.3 * mine.sum() + 0.5)
            changed += len(wrong)
            others = [k for k in a.classes if k != c]
            if kind == "asymmetric":
                after = a.classes[(a.classes.index(c) + 1) % len(a.classes)]
                assert set(wrong.tolist()) == {after}
            else:  # about 43 of each class go to four others alike
                counts = [int((wrong == k).sum()) for k in others]
                assert min(counts) >= 1 and max(counts) < len(wrong) * 0.6
    assert len(noisy.true_labels) == changed
    assert noisy.fingerprint != clean.fingerprint and noisy[0].train.source == clean[0].train.source


def test_label_noise_is_seeded_apart() -> None:
    options: dict[str, Any] = {"tasks": 2, "noise": 0.2}
    one, two = (label_noise("split_digits", **options) for _ in range(2))
    assert one.true_labels == two.true_labels and one.fingerprint == two.fingerprint
    other = label_noise("split_digits", **options, noise_seed=1)
    assert other.true_labels != one.true_labels and other.fingerprint != one.fingerprint
    none = label_noise("split_digits", tasks=2, noise=0)
    assert none.true_labels == {} and none.fingerprint == split_digits().fingerprint


def test_label_noise_on_top_of_itself_keeps_the_first_labels() -> None:
    clean = split_digits(tasks=2)
    twice = label_noise(label_noise(clean, noise=0.4), noise=0.4, noise_seed=5)
    for a, b in zip(clean, twice, strict=True):
        assert np.array_equal(twice.clean_labels(b.train), a.train.y)


def test_label_noise_needs_two_classes_a_task() -> None:
    x, y = np.zeros((4, 2)), [0, 0, 1, 1]
    single = class_incremental(x, y, x, y, tasks=2, validation=0)
    with pytest.raises(ConfigError, match="at least two classes in every task"):
        label_noise(single, noise=0.5)
    with pytest.raises(ConfigError, match="noise as a number in"):
        label_noise(single, noise=1.0)
