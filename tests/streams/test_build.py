"""build_stream: any data in any arrangement, and what it says of data that does not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from cpool.errors import ConfigError, DataError, UnknownNameError
from cpool.streams import ARRANGEMENTS, build_stream, class_incremental, load_stream, split_digits
from cpool.streams._given import read_data

OPTIONS: dict[str, dict[str, Any]] = {
    "class": {"tasks": 3},
    "task": {"tasks": 3},
    "blurry": {"tasks": 3},
    "few_shot": {"ways": 2, "shots": 2},
    "gradual_drift": {"tasks": 2, "samples": 6, "transition": 1},
    "label_noise": {"tasks": 3, "noise": 0.5},
    "long_tailed": {"tasks": 3, "imbalance": 3},
    "online": {"tasks": 3, "samples": 8},
    "repeated": {"tasks": 3},
}
NAMES = ["ant", "bee", "cow", "dog", "eel", "fox"]


class Columns:
    """The protocol of `datasets.Dataset` that is used: a length, names, features, columns."""

    def __init__(self, columns: dict[str, list[Any]], names: list[str] | None = None) -> None:
        self._columns = columns
        self.column_names = list(columns)
        self.features = {name: object() for name in columns}
        if names is not None:
            self.features["label"] = type("ClassLabel", (), {"names": names})()

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, key: str) -> list[Any]:
        return self._columns[key]


class Vision:
    """The protocol of torchvision's data sets: pairs of a PIL image and a label, and classes."""

    classes = NAMES

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return Image.fromarray(np.full((4, 4, 3), i, np.uint8)), i % 6


def arrays(n: int = 20, m: int = 6) -> tuple[Any, Any, Any, Any]:
    y, y_test = np.repeat(np.arange(6), n), np.repeat(np.arange(6), m)
    x = np.arange(len(y), dtype=float)[:, None]
    return x, y, x[: len(y_test)] + 1000, y_test


def texts(n: int) -> tuple[list[str], list[str]]:
    return [f"text {i}" for i in range(n)], [NAMES[i % 6] for i in range(n)]


def all_forms(tmp_path: Path) -> dict[str, Any]:
    x, y, x_test, y_test = arrays()
    words, labels = texts(120)
    for name in NAMES:
        for split, count in (("train", 20), ("test", 6)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("L", (3, 3), i).save(folder / f"{i}.png")
    table = tmp_path / "mine.csv"
    table.write_text(
        "text,label\n" + "".join(f"{a},{b}\n" for a, b in zip(words, labels, strict=True)) * 2
    )
    part = Columns({"text": words, "label": [i % 6 for i in range(120)]}, NAMES)
    return {
        "arrays": (x, y, x_test, y_test),
        "tensors": tuple(torch.as_tensor(v) for v in (x, y, x_test, y_test)),
        "texts": (words, labels),
        "vision": {"train": Vision(120), "test": Vision(36)},
        "columns": {"train": part, "test": part},
        "one split": part,
        "folder": tmp_path / "images",
        "file": str(table),
        "name": "split_digits",
        "stream": split_digits(train_per_class=30),
    }


@pytest.mark.parametrize("arrangement", ["class", "task", *sorted(ARRANGEMENTS)])
def test_any_data_in_any_arrangement(arrangement: str, tmp_path: Path) -> None:
    for form, data in all_forms(tmp_path).items():
        options = dict(OPTIONS[arrangement])
        if form == "stream" and arrangement in ("online", "label_noise", "gradual_drift"):
            options.pop("tasks", None)
        if form == "stream" and arrangement == "gradual_drift":
            options["samples"] = 10
        stream = build_stream(data, arrangement=arrangement, validation=0.2, **options)
        assert stream.arrangement.get("name", arrangement) == arrangement, form
        assert stream.scenario == ("task" if arrangement == "task" else "class")
        named = form not in ("arrays", "tensors", "name", "stream")
        assert not named or sorted(stream.class_names) == NAMES, form
        if arrangement not in ("gradual_drift", "online"):
            assert all(len(task.validation) for task in stream), form
        again = build_stream(data, arrangement=arrangement, validation=0.2, **options)
        assert again.describe() == stream.describe()


def test_class_is_class_incremental() -> None:
    data = arrays()
    built = build_stream(data, tasks=3, seed=2, name="mine")
    direct = class_incremental(*data, tasks=3, seed=2, name="mine")
    assert built.describe() == direct.describe()
    assert build_stream("split_digits", tasks=2).describe() == split_digits(tasks=2).describe()


def test_data_of_columns_is_that_of_its_arrays() -> None:
    words, labels = texts(30)
    part = Columns(
        {"id": list(range(30)), "text": words, "label": [i % 6 for i in range(30)]}, NAMES
    )
    split = {"train": part, "test": part}
    one = build_stream(split, tasks=3)
    two = class_incremental(words, part["label"], words, part["label"], tasks=3, class_names=NAMES)
    assert one.fingerprint == two.fingerprint
    # Strings as labels count in the order of their names.
    plain = Columns({"sentence": words, "intent": labels})
    assert build_stream({"train": plain, "test": plain}, tasks=3).fingerprint == one.fingerprint
    other = Columns({"a": words, "b": labels})
    named = build_stream({"train": other, "test": other}, tasks=3, columns=["a", "b"])
    assert named.fingerprint == one.fingerprint


def test_columns_of_images() -> None:
    images = [Image.new(mode, (5, 4), 7) for mode in ("L", "RGB", "P", "RGBA", "1", "LA")]
    part = Columns({"image": images, "label": [0, 1, 0, 1, 0, 1]})
    stream = build_stream({"train": part, "test": part}, tasks=1, validation=0)
    assert {np.asarray(x).shape for x in stream[0].train.x} == {(4, 5), (4, 5, 3)}


def test_columns_that_cannot_be_told_apart() -> None:
    words, labels = texts(6)
    for columns in (
        {"text": words, "sentence": words, "label": labels},
        {"text": words, "y": labels},
    ):
        with pytest.raises(DataError, match=r"one column of inputs and one of labels.*columns=\["):
            build_stream(Columns(columns))
    with pytest.raises(ConfigError, match=r"got 'lable'\. It has 'text', 'label'"):
        build_stream(Columns({"text": words, "label": labels}), columns=["text", "lable"])
    with pytest.raises(ConfigError, match="columns only with a data set that has them"):
        build_stream((words, labels), columns=["text", "label"])
    both = Columns({"text": words, "label": labels})
    both.column_names = {"train": [], "test": []}  # type: ignore[assignment]
    with pytest.raises(DataError, match="one split with a length"):
        build_stream(both)


def test_the_real_library() -> None:
    datasets = pytest.importorskip("datasets", reason="the extra datasets is not installed")
    words, _ = texts(60)
    labels = [i % 6 for i in range(60)]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    )
    whole = datasets.Dataset.from_dict({"text": words, "label": labels}, features=features)
    parts = whole.train_test_split(12, seed=0, stratify_by_column="label")
    stream = build_stream(parts, arrangement="blurry", tasks=3)
    assert list(stream.class_names) == NAMES and len(stream.joint().test) == 12
    assert stream.modality == "text"


def test_torchvision() -> None:
    datasets = pytest.importorskip("torchvision.datasets", reason="torchvision is not installed")
    fake = datasets.FakeData(size=40, image_size=(3, 6, 6), num_classes=4)
    stream = build_stream(fake, tasks=2, test_fraction=0.25)
    assert np.asarray(stream[0].train.x).shape[1:] == (6, 6, 3) and len(stream.class_names) == 4
    pairs = TensorDataset(torch.rand(8, 3, 6, 6), torch.arange(8) % 2)
    assert np.asarray(build_stream(pairs, tasks=1)[0].train.x).shape[1:] == (6, 6, 3)


def test_domains() -> None:
    data = arrays()
    shifted = (data[0] + 5, *data[1:])
    stream = build_stream({"here": data, "there": shifted}, arrangement="domain", validation=0)
    assert [t.name for t in stream] == ["here", "there"] and stream.scenario == "domain"
    listed = build_stream([data, shifted], arrangement="domain", validation=0)
    assert [t.name for t in listed] == ["domain 0", "domain 1"]
    assert listed.fingerprint == stream.fingerprint
    words = texts(30)
    assert build_stream([words, words], arrangement="domain").class_names == tuple(NAMES)
    kept = build_stream([words, words], arrangement="domain", classes=["fox", "ant"])
    assert kept.class_names == ("fox", "ant")
    with pytest.raises(DataError, match="the same classes in every domain"):
        build_stream([words, (words[0], ["x" + y for y in words[1]])], arrangement="domain")
    with pytest.raises(DataError, match="a mapping from the name of each domain"):
        build_stream("split_digits", arrangement="domain")


def test_some_of_the_classes() -> None:
    stream = build_stream(texts(60), classes=["fox", "ant", "dog"], tasks=1, validation=0)
    assert stream.class_names == ("fox", "ant", "dog")
    for x, y in stream[0].train:
        assert NAMES[int(x.split()[1]) % 6] == stream.class_names[y]
    digits = build_stream("split_digits", classes=[7, 1], tasks=1, arrangement="online", samples=50)
    assert digits.class_names == ("7", "1") and digits.name == "data_online"
    whole = load_stream("split_digits", tasks=1)[0]
    for task in digits:  # ids are those of the whole, and so are the inputs
        for x, i, y in zip(task.test.x, task.test.ids, task.test.y, strict=True):
            row = whole.test.ids.tolist().index(i)
            assert np.array_equal(x, whole.test.x[row]) and whole.test.y[row] == [7, 1][y]
    for bad in ([1], [1, 1], [1, 99], ["emu", 1]):
        with pytest.raises(ConfigError, match="at least two of the 10 classes"):
            build_stream("split_digits", classes=bad)


def test_test_data_is_drawn_where_there_is_none() -> None:
    one, two = (build_stream(texts(60), tasks=3, seed=s) for s in (0, 1))
    tests = [sorted(one.joint().test.ids.tolist()), sorted(two.joint().test.ids.tolist())]
    assert tests[0] == tests[1] and len(tests[0]) == 12
    assert len(build_stream(texts(60), test_fraction=0.5).joint().test) == 30


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ("split_digits", {"arrangement": "blury"}, UnknownNameError, "Did you mean 'blurry'"),
        ("split_digits", {"arrangement": "blurry", "disjont": 1}, UnknownNameError, "'disjoint'"),
        ("split_digits", {"taks": 1}, UnknownNameError, "option of the arrangement 'class'"),
        ("no/such/thing", {}, UnknownNameError, "stream, file or folder"),
        ("split_digits", {"class_names": ["a"]}, ConfigError, "got class_names"),
        ({"training": 1}, {}, DataError, 'a "train" split'),
        ((1, 2, 3), {}, DataError, "a pair"),
        (iter([]), {}, DataError, "map-style"),
        ((["a", "b"], ["x", "x"]), {}, DataError, "at least two classes"),
    ],
)
def test_what_does_not_fit(
    data: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_stream(data, **options)


def test_names_of_labels_may_be_given() -> None:
    x, y = texts(12)
    assert read_data((x, y), class_names=NAMES[::-1]).class_names == tuple(NAMES[::-1])
    with pytest.raises(DataError, match="labels among the 5 classes"):
        read_data((x, y), class_names=NAMES[1:])
