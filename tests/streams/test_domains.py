"""Domain-incremental streams: the same classes in every task, ids and order of domains."""

from typing import Any

import numpy as np
import pytest

from cpool.errors import ConfigError, DataError
from cpool.streams import Stream, domain_incremental

ROWS = np.zeros((2, 3))
Y = np.array([0, 1, 0, 1, 0, 1])


def build(n: int = 3, **options: Any) -> Stream:
    domains = [(np.full((6, 2), float(i)), Y, np.full((2, 2), float(i)), Y[:2]) for i in range(n)]
    return domain_incremental(domains, **options)


def test_every_task_has_all_classes_and_ids_of_its_own() -> None:
    stream = build()
    assert stream.scenario == "domain" and stream.class_order == (0, 1)
    assert [task.classes for task in stream] == [(0, 1)] * 3
    ids = np.concatenate([s.ids for t in stream for s in (t.train, t.validation, t.test)])
    assert sorted(ids) == list(range(24))
    for i, task in enumerate(stream):
        assert set(np.asarray(task.train.x).ravel()) == {float(i)}
        assert sorted(np.r_[task.train.ids, task.validation.ids]) == list(range(8 * i, 8 * i + 6))
        assert task.test.ids.tolist() == [8 * i + 6, 8 * i + 7]
        assert np.bincount(task.validation.y).tolist() == [1, 1]
        assert task.train.source == stream.fingerprint


def test_shuffle_moves_domains_and_nothing_else() -> None:
    plain, streams = build(4), [build(4, shuffle=True, seed=s) for s in range(8)]
    orders = {tuple(t.name for t in s) for s in streams}
    assert [t.name for t in plain] == [f"domain {i}" for i in range(4)] and len(orders) > 3
    same = build(4, shuffle=True, seed=0)
    by_name = {t.name: t for t in plain}
    for task in same:
        assert np.array_equal(task.train.ids, by_name[task.name].train.ids)
    assert {s.fingerprint for s in streams} == {plain.fingerprint}
    assert [t.index for t in same] == [0, 1, 2, 3]


def test_joint_of_domains() -> None:
    joint = build(validation=0).joint()
    assert len(joint.train) == 18 and len(joint.test) == 6 and joint.classes == (0, 1)


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ([], "at least one domain"),
        ([(["a", "b"], [0, 1], ["a"], [0]), (["a"], [0], ["a"], [0])], "in 'domain 1'"),
        ([(["a"] * 2, [0, 1], ["a"], [0]), (["a"] * 3, [0, 1, 2], ["a"], [0])], "3 classes in"),
        ([(["a"] * 2, [0, 1], ["a"], [0]), (ROWS, [0, 1], ROWS, [0, 1])], "features of"),
    ],
)
def test_bad_domains(domains: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        domain_incremental(domains)


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="3 task names"):
        build(names=["a", "b"])
    with pytest.raises(DataError, match="a name of its own"):
        build(names=["a", "b", "b"])
    with pytest.raises(ConfigError, match="validation as a fraction"):
        build(validation=2)
