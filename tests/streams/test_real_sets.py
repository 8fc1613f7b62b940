"""SNIPS, Omniglot, five data sets in a row, and conflicting domains: sizes, rules, damage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpool.errors import ConfigError, DataError
from cpool.streams import (
    conflicting_intents,
    five_datasets,
    omniglot50,
    rotated_inverted_digits,
    rotated_inverted_fashion,
    snips,
)
from cpool.streams.omniglot import read_alphabets
from cpool.streams.snips import _INTENTS, SNIPS
from tests.streams.test_images import write_fashion


def write_snips(folder: Path) -> None:
    """Write three training queries and one test query of each intent."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _INTENTS:
        rows = [
            {"data": [{"text": f" {name} "}, {"text": f"é{i}", "entity": "e"}]} for i in range(3)
        ]
        for file, some in ((f"train_{name}_full", rows), (f"validate_{name}", rows[:1])):
            path = folder / f"{file}.json"
            path.write_text(json.dumps({name: some}, ensure_ascii=False), encoding="utf-8")


def write_omniglot(folder: Path, alphabets: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Write alphabets of so many characters; pixel k of every drawing d of character c is set."""
    number = 0
    for part, sizes in zip(("background", "evaluation"), alphabets, strict=True):
        names = [f"{part}{a}/character{c:02}" for a, n in enumerate(sizes) for c in range(1, n + 1)]
        images = np.zeros((len(names) * 20, 105 * 105), np.uint8)
        for row in range(len(images)):
            images[row, number + row] = 1  # a pixel of its own for every drawing
        number += len(images)
        np.savez(
            folder / f"omniglot_images_{part}.npz",
            x_packed=np.packbits(images, axis=1),
            y=np.repeat(np.arange(len(names)), 20),
            chars=np.array(names),
        )


def test_snips(data_root: Path) -> None:
    stream = snips(data=data_root)
    described = stream.describe()
    assert [len(c) for c in described["task_classes"]] == [3, 2, 2]
    assert sum(described["train_sizes"]) + sum(described["validation_sizes"]) == 13784
    assert described["test_sizes"] == [300, 200, 200]
    assert stream.class_names == _INTENTS and stream.modality == "text"
    assert stream.fingerprint.startswith("0937478d")
    queries = [x for task in stream for x in (*task.train.x, *task.validation.x)]
    assert any("Punk Perfection \U0001f355" in query for query in queries)  # once two surrogates
    assert all(query == query.strip() and query.encode() for query in queries)


def test_small_snips(tmp_path: Path) -> None:
    write_snips(tmp_path / "SNIPS")
    stream = snips(data=tmp_path, tasks=1, validation=0)
    for text, label in stream[0].train:
        assert text.split() == [_INTENTS[label], text.split()[1]] and text.split()[1][0] == "é"
    assert stream.describe()["train_sizes"] == [21] and stream.describe()["test_sizes"] == [7]
    small = snips(data=tmp_path, tasks=1, validation=0, train_per_class=2)
    assert small.describe()["train_sizes"] == [14]


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"GetWeather": [{}]}', b"\xff\xff", b'{"A": 1}']
)
def test_damaged_snips(tmp_path: Path, content: bytes) -> None:
    write_snips(tmp_path)
    (tmp_path / "train_GetWeather_full.json").write_bytes(content)
    with pytest.raises(DataError, match=r"queries of the intent 'GetWeather' in .*sonos"):
        snips(data=tmp_path)


def test_snips_needs_every_file(tmp_path: Path) -> None:
    write_snips(tmp_path / "SNIPS")
    (tmp_path / "SNIPS" / SNIPS.files[3]).unlink()
    with pytest.raises(DataError, match=f"got no {SNIPS.files[3]} there"):
        snips(data=tmp_path)


def test_omniglot50(data_root: Path) -> None:
    stream = omniglot50(data=data_root, tasks=8, classes_per_task=3)
    assert [len(t.classes) for t in stream] == [3] * 8
    assert stream.describe()["test_sizes"] == [15] * 8
    assert [len(t.train) + len(t.validation) for t in stream] == [45] * 8
    x = np.asarray(stream[0].train.x)
    assert x.shape[1:] == (105, 105) and set(np.unique(x).tolist()) == {0, 255}
    assert 0.02 < (x > 0).mean() < 0.2
    for task in stream:
        names = [stream.class_names[c] for c in task.classes]
        assert names == [f"{task.name}/character{i:02}" for i in (1, 2, 3)]
    background = {
        a.name: len(a.characters)
        for a in read_alphabets(data_root / "omniglot_images_background.npz")
    }
    evaluation = read_alphabets(data_root / "omniglot_images_evaluation.npz")
    assert (len(background), len(evaluation)) == (30, 20)
    assert sum(background.values()) == 964 and sum(len(a.characters) for a in evaluation) == 659
    assert [t.name for t in stream] != sorted(t.name for t in stream)
    assert {t.name for t in stream} == set(list(background)[:8])


def test_omniglot_is_cut_by_alphabet_and_by_who_drew(tmp_path: Path) -> None:
    write_omniglot(tmp_path, ((4, 2, 3), (5, 2)))
    whole = omniglot50(data=tmp_path, tasks=5, classes_per_task=None, validation=0)
    assert sorted(len(t.classes) for t in whole) == [2, 2, 3, 4, 5]
    stream = omniglot50(
        data=tmp_path,
        tasks=5,
        classes_per_task=3,
        train_per_class=4,
        test_per_class=2,
        validation=0,
    )
    starts = {
        "background0": 0,
        "background1": 4,
        "background2": 6,
        "evaluation0": 9,
        "evaluation1": 14,
    }
    drawers: dict[str, set[int]] = {"train": set(), "test": set()}
    for task in stream:
        assert len(task.classes) <= 3
        for split in ("train", "test"):
            part = getattr(task, split)
            for image, label in part:
                drawing = int(np.flatnonzero(image)[0])
                place = int(stream.class_names[label].rpartition("character")[2]) - 1
                assert drawing // 20 == starts[task.name] + place
                drawers[split].add(drawing % 20)
    assert len(drawers["train"]) == 4 and len(drawers["test"]) == 2
    assert not drawers["train"] & drawers["test"]
    prints = {
        omniglot50(data=tmp_path, tasks=5, seed=s, subset_seed=k).fingerprint
        for s, k in ((0, 0), (1, 0), (0, 1))
    }
    assert len(prints) == 2
    names = {tuple(t.name for t in omniglot50(data=tmp_path, tasks=5, seed=s)) for s in range(5)}
    assert len(names) >= 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 6}, "tasks from 1 to 5"),
        ({"tasks": 5, "classes_per_task": 1}, "classes_per_task as a whole number from 2"),
        ({"tasks": 5, "train_per_class": 16}, "at most 20, the drawings there; got 16"),
        ({"tasks": 5, "test_per_class": 0}, "test_per_class as a whole number from 1"),
    ],
)
def test_omniglot_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_omniglot(tmp_path, ((2, 2, 3), (2, 2)))
    with pytest.raises(ConfigError, match=message):
        omniglot50(data=tmp_path, **options)


def test_damaged_omniglot(tmp_path: Path) -> None:
    write_omniglot(tmp_path, ((2,), (2,)))
    path = tmp_path / "omniglot_images_background.npz"
    arrays = dict(np.load(path))
    for key, value in (("y", arrays["y"][::-1]), ("x_packed", arrays["x_packed"][:, :-1])):
        np.savez(path, **{**arrays, key: value})
        with pytest.raises(DataError, match=r"an intact file .*images \[40, "):
            omniglot50(data=tmp_path, tasks=2)
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match="an intact file"):
        omniglot50(data=tmp_path, tasks=2)


def test_five_datasets(data_root: Path) -> None:
    stream = five_datasets(data=data_root, train_per_class=12, test_per_class=4, validation=0)
    assert sorted(t.name for t in stream) == [
        "CIFAR-100",
        "Fashion-MNIST",
        "Omniglot",
        "Omniglot 2",
        "digits",
    ]
    assert [len(t.classes) for t in stream] == [10] * 5 and len(stream.class_names) == 50
    assert stream.describe()["train_sizes"] == [120] * 5
    for task in stream:
        x = np.asarray(task.train.x)
        assert x.shape == (120, 32, 32, 3) and x.dtype == np.uint8
        assert all(stream.class_names[c].startswith(f"{task.name}: ") for c in task.classes)
        grey = bool((x[..., 0] == x[..., 1]).all())
        assert grey == (task.name != "CIFAR-100") and 10 < x.mean() < 200
    others = [
        five_datasets(data=data_root, train_per_class=2, test_per_class=1, tasks=3, seed=s)
        for s in (0, 1)
    ]
    assert others[0].fingerprint == others[1].fingerprint
    with pytest.raises(ConfigError, match="tasks from 1 to 5"):
        five_datasets(data=data_root, tasks=6)


def test_conflicting_intents(data_root: Path) -> None:
    stream = conflicting_intents(data=data_root, tasks=5, train_per_class=5, test_per_class=2)
    names = ["SNIPS", "BANKING77", "CLINC150", "BANKING77 1", "CLINC150 1"]
    assert [t.name for t in stream] == names and stream.scenario == "domain"
    assert stream.class_names == tuple(f"label {i}" for i in range(7))
    assert stream.describe()["test_sizes"] == [14] * 5
    meanings = stream.arrangement["meanings"]
    assert list(meanings) == names and all(len(set(m)) == 7 for m in meanings.values())
    assert not set(meanings["BANKING77"]) & set(meanings["BANKING77 1"])
    # Each query has, under its label, the intent that the domain's list says.
    snips_file = json.loads((data_root / "SNIPS" / "validate_GetWeather.json").read_text())
    weather = {"".join(p["text"] for p in row["data"]).strip() for row in snips_file["GetWeather"]}
    label = meanings["SNIPS"].index("GetWeather")
    found = [y for x, y in stream[0].test if x in weather]
    assert found == [label, label]
    small = conflicting_intents(data=data_root, classes=3, train_per_class=5, shuffle=True, seed=1)
    assert len(small.class_names) == 3 and len(small) == 3
    for bad, message in ({"tasks": 34}, "tasks from 1 to 33"), ({"classes": 8}, "from 2 to 7"):
        with pytest.raises(ConfigError, match=message):
            conflicting_intents(data=data_root, **bad)


def test_images_are_turned_and_inverted() -> None:
    stream = rotated_inverted_digits(tasks=8, train_per_class=3, test_per_class=2, validation=0)
    base = np.asarray(stream[0].test.x)
    for task, turns, inverted in zip(
        stream, [0, 1, 0, 1, 2, 3, 2, 3], [0, 0, 1, 1, 0, 0, 1, 1], strict=True
    ):
        for image, first in zip(np.asarray(task.test.x), base, strict=True):
            wanted = [[int(v) for v in row] for row in first]
            for _ in range(turns):  # a quarter counter-clockwise: the last column comes up first
                wanted = [[row[7 - i] for row in wanted] for i in range(8)]
            assert image.tolist() == [[255 - v if inverted else v for v in r] for r in wanted]
        assert np.array_equal(task.test.y, stream[0].test.y)
    with pytest.raises(ConfigError, match="tasks from 1 to 8"):
        rotated_inverted_digits(tasks=9)


def test_labels_conflict_when_permuted() -> None:
    plain = rotated_inverted_digits(train_per_class=5, test_per_class=4)
    stream = rotated_inverted_digits(train_per_class=5, test_per_class=4, permute_labels=True)
    assert stream.class_names[0] == "label 0" and plain.class_names[0] == "0"
    tables = stream.arrangement["labels"]
    assert tables[0] == list(range(10)) and len({tuple(t) for t in tables}) == 4
    for table, ours, theirs in zip(tables, stream, plain, strict=True):
        assert sorted(table) == list(range(10))
        assert ours.index == 0 or all(new != old for old, new in enumerate(table))
        assert ours.test.y.tolist() == [table[y] for y in theirs.test.y]
        assert np.array_equal(ours.test.x, theirs.test.x)
    again = rotated_inverted_digits(train_per_class=5, permute_labels=True, permutation_seed=1)
    assert again.arrangement["labels"] != tables


def test_rotated_inverted_fashion(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    stream = rotated_inverted_fashion(data=tmp_path, tasks=3, train_per_class=3, validation=0)
    assert stream.describe()["train_sizes"] == [30] * 3 and stream.class_names[0] == "T-shirt/top"
    first, inverted = (np.asarray(stream[i].train.x) for i in (0, 2))
    assert np.array_equal(inverted, 255 - first)
