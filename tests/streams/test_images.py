"""Fashion-MNIST and the small CIFAR-100: real sizes, subsets, and damaged or missing files."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from cpool.errors import ConfigError, DataError
from cpool.streams import split_cifar100_small, split_fashion_mnist


def write_fashion(folder: Path, n: int = 40) -> None:
    """Write a tiny data set in Fashion-MNIST's format, n images a split."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    labels = np.arange(n, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            shape = np.array(array.shape, dtype=">u4").tobytes()
            data = bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))


def test_fashion_mnist(data_root: Path) -> None:
    stream = split_fashion_mnist(data=data_root)
    described = stream.describe()
    assert described["train_sizes"] == [10800] * 5
    assert described["validation_sizes"] == [1200] * 5
    assert described["test_sizes"] == [2000] * 5
    assert described["class_names"][9] == "Ankle boot"
    assert np.asarray(stream[0].train.x).shape == (10800, 28, 28)
    assert stream.fingerprint.startswith("2748aac8")


def test_cifar100_small(data_root: Path) -> None:
    stream = split_cifar100_small(data=data_root)
    described = stream.describe()
    assert described["train_sizes"] == [900] * 10 and described["test_sizes"] == [500] * 10
    assert len(stream.class_names) == 100 and stream.class_names[0] == "apple"
    assert np.asarray(stream[0].train.x).shape == (900, 32, 32, 3)
    assert all(np.bincount(t.train.y)[list(t.classes)].tolist() == [90] * 10 for t in stream)
    assert stream.fingerprint.startswith("ea259b65")


def test_reads_idx_from_root_or_folder_and_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(tmp_path / "fashion-mnist")
    prints = {
        split_fashion_mnist(data=folder).fingerprint
        for folder in (tmp_path, str(tmp_path), tmp_path / "fashion-mnist")
    }
    monkeypatch.setenv("CPOOL_DATA", str(tmp_path))
    prints.add(split_fashion_mnist().fingerprint)
    assert len(prints) == 1


def test_subsets_are_the_same_for_every_seed(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    whole = split_fashion_mnist(data=tmp_path)
    parts = [
        split_fashion_mnist(data=tmp_path, train_per_class=2, test_per_class=1, seed=seed)
        for seed in (0, 1)
    ]
    ids = []
    for part in parts:
        joint = part.joint()
        train = np.r_[joint.train.ids, joint.validation.ids]
        assert np.bincount(np.r_[joint.train.y, joint.validation.y]).tolist() == [2] * 10
        assert np.bincount(joint.test.y).tolist() == [1] * 10
        ids.append((sorted(train), sorted(joint.test.ids)))
        # Ids and source are those of the whole set, so that cached features serve both.
        assert joint.train.source == whole.fingerprint != part.fingerprint
        test = whole.joint().test
        rows = test.take([test.ids.tolist().index(i) for i in joint.test.ids])
        assert np.array_equal(np.asarray(rows.x), np.asarray(joint.test.x))
    assert ids[0] == ids[1] and parts[0].fingerprint == parts[1].fingerprint
    other = split_fashion_mnist(data=tmp_path, train_per_class=2, subset_seed=1)
    assert other.fingerprint != parts[0].fingerprint
    more = split_fashion_mnist(data=tmp_path, train_per_class=99)
    assert len(more.joint().train) == len(whole.joint().train)


def test_subset_sizes_start_at_one(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    for option in ("train_per_class", "test_per_class", "subset_seed"):
        with pytest.raises(ConfigError, match=f"{option} as a whole number"):
            split_fashion_mnist(data=tmp_path, **{"train_per_class": 1, option: -1})


def test_missing_data_is_named_with_place_and_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CPOOL_DATA", raising=False)
    with pytest.raises(DataError) as caught:
        split_fashion_mnist()
    for words in ("train-images-idx3-ubyte.gz", "neither data= nor CPOOL_DATA", "zalandoresearch"):
        assert words in str(caught.value)
    with pytest.raises(DataError, match=f"got no folder {tmp_path / 'none'}"):
        split_fashion_mnist(data=tmp_path / "none")
    write_fashion(tmp_path / "fashion-mnist")
    (tmp_path / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"got no t10k-labels-idx1-ubyte\.gz there"):
        split_fashion_mnist(data=tmp_path)
    with pytest.raises(DataError, match=r"no cifar100_small.npz there.*Krizhevsky"):
        split_cifar100_small(data=tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"no gzip", gzip.compress(b""), gzip.compress(b"\0\0\x08\3")],
    ids=["empty", "no-gzip", "no-header", "no-values"],  # a gzip file holds the time it was made
)
def test_damaged_idx(tmp_path: Path, data: bytes) -> None:
    write_fashion(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        split_fashion_mnist(data=tmp_path)


def test_cut_gzip(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="an intact file"):
        split_fashion_mnist(data=tmp_path)


@pytest.mark.parametrize("damage", ["bytes", "cut", "keys", "pickle"])
def test_damaged_npz(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "cifar100_small.npz"
    if damage == "bytes":
        path.write_bytes(b"no zip")
    elif damage == "keys":
        np.savez(path, x_train=np.zeros(3))
    else:
        keys = ("x_train", "y_train", "x_test", "y_test", "classes")
        np.savez(path, **{key: np.array([{"an": "object"}]) for key in keys})
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="an intact file"):
        split_cifar100_small(data=tmp_path)
