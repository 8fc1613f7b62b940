"""Scenarios of Continuum as streams, and back."""

import importlib
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("continuum", reason="the extra continuum is not installed")

from continuum.datasets import InMemoryDataset
from continuum.scenarios import (
    ClassIncremental,
    ContinualScenario,
    InstanceIncremental,
    TransformationIncremental,
)
from continuum.tasks import TaskType
from torchvision import transforms

import cpool
from cpool.errors import DataError, MissingDependencyError
from cpool.interop.continuum import as_scenario, as_stream
from cpool.streams import class_incremental, domain_incremental
from tests import tiny
from tests.common.tasks import build, stream

Y = np.arange(24) % 6


def images(seed: int, y=Y, t=None, **options) -> InMemoryDataset:
    return InMemoryDataset(tiny.raw("vit", len(y), seed), y, t, train=seed == 0, **options)


def rows(examples) -> set[bytes]:
    return {np.asarray(x).tobytes() + bytes([y]) for x, y in examples}


def test_classes_that_come_in_an_order_of_their_own():
    order = [4, 0, 5, 1, 3, 2]
    one, other = (ClassIncremental(images(s), increment=2, class_order=order) for s in (0, 1))
    made = as_stream(one, other)
    assert (made.scenario, made.modality, made.name) == ("class", "image", "continuum")
    assert [task.classes for task in made] == [(0, 1), (2, 3), (4, 5)]  # Continuum's numbers
    for index, task in enumerate(made):
        assert task.train.x.dtype == np.uint8  # what ToTensor scaled is whole again
        for part, seed in ((task.train, 0), (task.test, 1)):
            wanted = np.isin(Y, order[2 * index : 2 * index + 2])
            raw, new = tiny.raw("vit", 24, seed)[wanted], np.array(order).argsort()[Y[wanted]]
            assert np.array_equal(part.x, raw) and np.array_equal(part.y, new)
    assert as_stream(one, other, scenario="task").scenario == "task"
    named = as_stream(one, other, class_names=list("abcdef"))
    assert named.class_names == tuple("abcdef")


def test_instances_are_domains_and_one_test_task_serves_all():
    whole = ContinualScenario(images(1, t=np.zeros(24, dtype=np.int64)))
    made = as_stream(InstanceIncremental(images(0), nb_tasks=2), whole)
    assert made.scenario == "domain" and len(made) == 2
    assert [len(task.train) for task in made] == [12, 12]
    assert (
        rows(made[0].test)
        == rows(made[1].test)
        == rows(zip(tiny.raw("vit", 24, 1), Y, strict=True))
    )
    shared = as_stream(ClassIncremental(images(0), increment=3), whole)
    assert [sorted(set(task.test.y.tolist())) for task in shared] == [[0, 1, 2], [3, 4, 5]]


def turned(steps: int):
    return [transforms.Lambda(lambda image: image.rotate(90 * steps, expand=True))]


@pytest.mark.parametrize("shared", [True, False])
def test_transformations_are_applied(shared):
    square = tiny.raw("vit", 24, 0)[:, :10, :10]
    one, other = (
        TransformationIncremental(
            InMemoryDataset(square, Y, train=side),
            [turned(0), turned(1)],
            shared_label_space=shared,
        )
        for side in (True, False)
    )
    made = as_stream(one, other)
    assert made.scenario == ("domain" if shared else "class")
    assert np.array_equal(made[0].train.x, square)
    assert np.array_equal(made[1].train.x, np.rot90(square, axes=(1, 2)))
    assert np.array_equal(made[1].train.y, Y + (0 if shared else 6))


@pytest.mark.parametrize("kind", ["vit", "llama"])
def test_a_stream_goes_and_comes_back(kind):
    one = stream(kind)
    train, test = as_scenario(one)
    assert isinstance(train, ClassIncremental) and train.train and not test.train
    again = as_stream(train, test, name="tiny")
    assert (again.scenario, again.modality) == (one.scenario, one.modality)
    order = np.array(train.class_order)
    for old, new in zip(one, again, strict=True):
        assert {*order[list(new.classes)].tolist()} == {*old.classes}
        for before, after in ((old.train, new.train), (old.test, new.test)):
            assert np.array_equal(np.asarray(before.x), np.asarray(after.x))
            assert np.array_equal(before.y, order[after.y])
            assert np.array_equal(train.get_original_targets(after.y), before.y)


def test_domains_vectors_and_files_go_and_come_back(tmp_path):
    y = np.repeat(np.arange(3), 4)
    sets = [(tiny.raw("vit", 12, s), y, tiny.raw("vit", 12, s + 9), y) for s in range(2)]
    domains = domain_incremental(sets, validation=0, seed=0)
    vectors = np.random.default_rng(0).random((24, 5), dtype=np.float32)
    features = class_incremental(vectors, Y, vectors, Y, tasks=3, validation=0)
    files = []
    for number, image in enumerate(tiny.raw("vit", 24, 0)):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(files[-1])
    paths = class_incremental(files, Y, files, Y, tasks=2, validation=0)
    kinds = (ContinualScenario, ClassIncremental, ClassIncremental)
    for one, kind in zip((domains, features, paths), kinds, strict=True):
        train, test = as_scenario(one)
        assert type(train) is kind
        again = as_stream(train, test)
        assert (again.scenario, again.modality) == (one.scenario, one.modality)
        for old, new in zip(one, again, strict=True):
            order = getattr(train, "class_order", np.arange(3))
            assert np.array_equal(old.train.y, np.array(order)[new.train.y])
            for a, b in zip(old.train.x, new.train.x, strict=True):
                assert np.array_equal(a, b)


def test_a_class_without_test_data_keeps_the_tasks():
    one = stream("vit")
    part = one[0].test
    first = cpool.Task(
        0,
        "first",
        one[0].classes,
        one[0].train,
        one[0].validation,
        part.take(part.y == part.y[0]),
    )
    train, test = as_scenario(one.replaced([first, *one[1:]]))
    assert isinstance(train, ContinualScenario)
    assert [len(task) for task in test] == [4, 8, 8]


def test_a_learner_learns_the_same_from_both():
    one = stream("vit")
    straight, round_trip = build("ncm", "vit"), build("ncm", "vit")
    again = as_stream(*as_scenario(one))
    wanted, got = straight.run(one), round_trip.run(again)
    np.testing.assert_array_equal(wanted.values, got.values)


def test_other_data_are_refused():
    one, other = (ClassIncremental(images(s), increment=2) for s in (0, 1))
    with pytest.raises(DataError, match="one test task"):
        as_stream(one, ClassIncremental(images(1), increment=3))
    with pytest.raises(DataError, match="as training data"):
        as_stream(images(0), other)
    sound = images(1, data_type=TaskType.AUDIO)
    sound.transformations = [lambda x: x]
    with pytest.raises(DataError, match="AUDIO"):
        as_stream(one, ClassIncremental(sound, increment=2))
    pairs = InMemoryDataset(tiny.raw("vit", 24), np.stack([Y, Y], axis=1))
    with pytest.raises(DataError, match="one class for each"):
        as_stream(ClassIncremental(pairs, increment=2), other)
    floats = tiny.raw("vit", 24).astype(np.float32) / 255
    with pytest.raises(DataError, match="uint8"):
        as_scenario(class_incremental(floats, Y, floats, Y, tasks=2, validation=0))


def test_without_continuum_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "cpool.interop.continuum")
    with pytest.raises(MissingDependencyError, match=r"pip install .*\[continuum\]"):
        importlib.import_module("cpool.interop.continuum")
