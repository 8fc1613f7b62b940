"""CLINC150 and BANKING77: real sizes and domains, and damaged or missing files."""

import json
from pathlib import Path

import pytest

from cpool.errors import ConfigError, DataError
from cpool.streams import banking77, clinc150, clinc150_out_of_scope


def write_clinc(folder: Path) -> None:
    """Write a tiny data set in CLINC150's format: two domains of two intents."""
    folder.mkdir(parents=True, exist_ok=True)
    domains = {"work": ["meeting", "vacation"], "home": ["lights", "music"]}
    intents = [intent for names in domains.values() for intent in names]
    rows = [[f"{intent} {i}", intent] for intent in intents for i in range(4)]
    queries = {"train": rows, "test": rows, "val": rows, "oos_test": [["why", "oos"]]}
    (folder / "data_full.json").write_text(json.dumps(queries))
    (folder / "domains.json").write_text(json.dumps(domains))


def test_clinc150_by_domain(data_root: Path) -> None:
    stream = clinc150(data=data_root)
    described = stream.describe()
    assert described["train_sizes"] == [1350] * 10
    assert described["validation_sizes"] == [150] * 10
    assert described["test_sizes"] == [450] * 10
    assert len(stream.class_names) == 150 and list(stream.class_names) == sorted(stream.class_names)
    domains = json.loads((data_root / "CLINC150" / "domains.json").read_text())
    for task in stream:
        assert {stream.class_names[c] for c in task.classes} == set(domains[task.name])
    assert stream.fingerprint.startswith("64119d62")
    assert [t.name for t in clinc150(data=data_root, seed=1)] != [t.name for t in stream]


def test_clinc150_in_random_tasks(data_root: Path) -> None:
    stream = clinc150(data=data_root, by="random")
    assert stream.describe()["test_sizes"] == [300] * 15
    assert len(clinc150(data=data_root, by="random", tasks=5)) == 5
    small = clinc150(data=data_root, train_per_class=10, test_per_class=5, validation=0)
    assert small.describe()["train_sizes"] == [150] * 10
    assert small.describe()["test_sizes"] == [75] * 10


def test_clinc150_out_of_scope(data_root: Path) -> None:
    sizes = {s: len(clinc150_out_of_scope(s, data=data_root)) for s in ("train", "val", "test")}
    assert sizes == {"train": 100, "val": 100, "test": 1000}
    assert all(isinstance(q, str) for q in clinc150_out_of_scope(data=data_root))


def test_banking77(data_root: Path) -> None:
    stream = banking77(data=data_root)
    described = stream.describe()
    assert [len(c) for c in described["task_classes"]] == [11] * 7
    assert sum(described["train_sizes"]) + sum(described["validation_sizes"]) == 10003
    assert described["test_sizes"] == [440] * 7
    categories = json.loads((data_root / "BANKING77" / "categories.json").read_text())
    assert list(stream.class_names) == categories
    assert isinstance(stream[0].train.x, list) and stream.modality == "text"
    assert stream.fingerprint.startswith("d044791f")


def test_small_clinc(tmp_path: Path) -> None:
    write_clinc(tmp_path / "CLINC150")
    stream = clinc150(data=tmp_path, validation=0.25)
    assert sorted(t.name for t in stream) == ["home", "work"]
    for task in stream:
        texts = [*task.train.x, *task.validation.x, *task.test.x]
        labels = [*task.train.y, *task.validation.y, *task.test.y]
        pairs = zip(texts, labels, strict=True)
        assert all(t.split()[0] == stream.class_names[y] for t, y in pairs)
    assert clinc150_out_of_scope(data=tmp_path) == ["why"]
    with pytest.raises(DataError, match="'oos_train' as a list"):
        clinc150_out_of_scope("train", data=tmp_path)
    with pytest.raises(ConfigError, match='by="random"'):
        clinc150(data=tmp_path, tasks=4)
    with pytest.raises(ConfigError, match="class_order=given"):
        clinc150(data=tmp_path, class_order=[0, 1, 2, 3])
    order = ["music", "lights", "vacation", "meeting"]
    ordered = clinc150(data=tmp_path, by="random", tasks=2, class_order=order)
    assert ordered.describe()["task_classes"] == [order[:2], order[2:]]


def test_clinc_domains_as_classes(tmp_path: Path) -> None:
    write_clinc(tmp_path / "CLINC150")
    stream = clinc150(data=tmp_path, labels="domain", tasks=1, validation=0.25)
    assert stream.class_names == ("home", "work")
    owner = {"meeting": "work", "vacation": "work", "lights": "home", "music": "home"}
    (task,) = stream
    for part in (task.train, task.validation, task.test):
        for text, label in zip(part.x, part.y, strict=True):
            assert stream.class_names[label] == owner[text.split()[0]]
    assert len(task.test.y) == 16
    intents = clinc150(data=tmp_path, by="random", tasks=1, validation=0.25)
    assert intents.fingerprint != stream.fingerprint


def write_banking(folder: Path, names: list[str]) -> None:
    rows = "".join(f"{name} {i},{name}\n" for name in names for i in range(3))
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text("text,category\n" + rows)
    (folder / "categories.json").write_text(json.dumps(names))


def test_banking_with_few_classes(tmp_path: Path) -> None:
    write_banking(tmp_path, list("abcdefgh"))
    drawn = set()
    for seed in range(6):
        stream = banking77(data=tmp_path, tasks=1, classes=3, subset_seed=seed, validation=0)
        (task,) = stream
        assert len(stream.class_names) == 3 and list(stream.class_names) == sorted(
            stream.class_names
        )
        for part in (task.train, task.test):
            found = zip(part.x, part.y, strict=True)
            assert all(text.split()[0] == stream.class_names[y] for text, y in found)
            assert len(part.y) == 9
        drawn.add((stream.class_names, stream.fingerprint))
    assert len(drawn) > 1
    whole = banking77(data=tmp_path, tasks=1, validation=0)
    assert banking77(data=tmp_path, tasks=1, classes=8, validation=0)[0].train.x == whole[0].train.x
    for wrong in (0, 9, True):
        with pytest.raises(ConfigError, match="classes as a whole number from 1 to 8"):
            banking77(data=tmp_path, tasks=1, classes=wrong)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_full.json", "{", "JSONDecodeError"),
        ("data_full.json", "[]", "got list"),
        ("data_full.json", "{}", "'train' as a list"),
        ("data_full.json", '{"train": [["a"]]}', "ValueError"),
        ("data_full.json", '{"train": [["a", "b"]], "test": []}', r"\['b'\]"),
        ("domains.json", '{"work": 3}', "a list of intents"),
        ("domains.json", '{"work": ["meeting"]}', "among the 1 classes"),
    ],
)
def test_damaged_clinc(tmp_path: Path, name: str, content: str, message: str) -> None:
    write_clinc(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        clinc150(data=tmp_path)


def test_missing_text_sets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data_full.json, domains.json there.*clinc/oos-eval"):
        clinc150(data=tmp_path)
    with pytest.raises(DataError, match=r"no train.csv, test.csv, categories.json there.*PolyAI"):
        banking77(data=tmp_path)


def test_banking_label_outside_the_categories(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,category\nhi,a\nho,b\n")
    (tmp_path / "categories.json").write_text('["a", "b"]')
    assert len(banking77(data=tmp_path, tasks=2)) == 2
    (tmp_path / "test.csv").write_text("text,category\nhi,a\nho,c\n")
    with pytest.raises(DataError, match=r"\['c'\]"):
        banking77(data=tmp_path, tasks=2)
    (tmp_path / "test.csv").write_text("text,label\nhi,a\n")
    with pytest.raises(DataError, match=r"column 'category'.*got the columns 'text', 'label'"):
        banking77(data=tmp_path, tasks=2)
