"""Stream: a sequence with a table, a description, and all tasks as one."""

import json
from typing import Any

import numpy as np
import pytest

from cpool.errors import DataError
from cpool.streams import Examples, Stream, Task, label_noise, split_digits

KEYS = [
    "name",
    "scenario",
    "modality",
    "arrangement",
    "tasks",
    "seed",
    "fingerprint",
    "task_names",
    "task_classes",
    "class_names",
    "class_order",
    "train_sizes",
    "validation_sizes",
    "test_sizes",
]


def test_is_a_sequence() -> None:
    stream = split_digits()
    assert [task.index for task in stream] == [0, 1, 2, 3, 4]
    assert stream[-1] is stream[4] and stream[1:3] == [stream[1], stream[2]]
    assert isinstance(stream[1:3], list) and stream[2] in stream and len(list(stream)) == 5
    assert next(reversed(stream)) is stream[4]
    with pytest.raises(IndexError):
        stream[5]


def test_description_is_complete_json() -> None:
    stream = split_digits(tasks=[[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]], seed=3)
    described = stream.describe()
    assert list(described) == KEYS
    assert json.loads(json.dumps(described)) == described
    assert described["task_classes"] == [list("012"), list("3456"), list("789")]
    assert described["tasks"] == 3 and described["seed"] == 3
    sizes = np.array([described[f"{s}_sizes"] for s in ("train", "validation", "test")])
    assert sizes.sum(1).tolist() == [1292, 145, 360]


def test_joint_holds_everything_once() -> None:
    stream = split_digits(seed=1)
    joint = stream.joint()
    assert (joint.index, joint.name, joint.classes) == (0, "joint", stream.class_order)
    for split in ("train", "validation", "test"):
        parts = [getattr(task, split).ids.tolist() for task in stream]
        assert getattr(joint, split).ids.tolist() == [i for part in parts for i in part]
    assert isinstance(joint.test.x, np.ndarray) and joint.test.x.shape == (360, 8, 8)
    assert len(split_digits(validation=0).joint().validation) == 0


def test_table() -> None:
    lines = repr(split_digits(tasks=2, validation=0)).splitlines()
    assert lines[0].startswith("Stream 'split_digits': class-incremental, image, 10 classes in 2")
    assert lines[1].split() == ["task", "name", "classes", "train", "validation", "test"]
    assert lines[2].split() == ["0", "task", "0", "5", "721", "0", "180"]
    assert len(lines) == 4


def test_refuses_tasks_that_make_no_stream() -> None:
    def examples(*ids: int) -> Examples:
        return Examples([str(i) for i in ids], np.zeros(len(ids), int), np.array(ids, int), "s")

    def stream(*tasks: Task) -> Stream:
        return Stream(
            tasks,
            name="s",
            scenario="class",
            modality="text",
            seed=0,
            class_names=["a"],
            class_order=[0],
            fingerprint="s",
        )

    good = Task(0, "a", (0,), examples(0), examples(), examples(1))
    assert len(stream(good)) == 1
    with pytest.raises(DataError, match="at least one task"):
        stream()
    with pytest.raises(DataError, match="a name of its own"):
        stream(good, good)
    with pytest.raises(DataError, match="1 repeated sample ids"):
        stream(Task(0, "a", (0,), examples(0), examples(), examples(0)))
    with pytest.raises(DataError, match="1 and 0 in task 'a'"):
        stream(Task(0, "a", (0,), examples(0), examples(), examples()))


def small_stream(*tasks: Task, names: tuple[str, ...] = ("a", "b"), order: Any = (0, 1)) -> Stream:
    return Stream(
        tasks,
        name="s",
        scenario="class",
        modality="text",
        seed=0,
        class_names=names,
        class_order=order,
        fingerprint="s",
    )


def labelled(y: list[int], first: int) -> Examples:
    ids = np.arange(first, first + len(y), dtype=np.int64)
    return Examples([str(i) for i in ids], np.array(y, np.int64), ids, "s")


def test_refuses_a_class_in_no_task_and_a_label_of_no_class() -> None:
    only = Task(0, "t", (0,), labelled([0], 0), labelled([], 0), labelled([0], 1))
    with pytest.raises(DataError, match=r"no task for \['b'\]. Put these classes into a task, or"):
        small_stream(only)
    both = Task(0, "t", (0, 1), labelled([0, 1], 0), labelled([], 0), labelled([0], 2))
    assert len(small_stream(both)) == 1
    with pytest.raises(DataError, match=r"the order \[0\]"):
        small_stream(both, order=[0])
    odd = Task(0, "t", (0, 1), labelled([0, 1], 0), labelled([], 0), labelled([2], 2))
    with pytest.raises(DataError, match=r"labels among the classes of task 't'; got \[2\]"):
        small_stream(odd)


def test_replaced_keeps_what_is_not_named() -> None:
    stream = label_noise("split_digits", tasks=2, noise=0.1)
    again = stream.replaced(stream[:], name="other")
    assert again.describe() == stream.describe() | {"name": "other"}
    assert again.true_labels == stream.true_labels and again.scenario == "class"
