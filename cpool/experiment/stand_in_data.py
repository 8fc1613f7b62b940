"""Made-up data in the files of the data sets, so that the builders of streams read it as theirs."""

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cpool.streams.clinc import CLINC150
from cpool.streams.images import CIFAR100_SMALL, FASHION_MNIST
from cpool.streams.omniglot import OMNIGLOT
from cpool.streams.snips import SNIPS
from cpool.streams.text import BANKING77

__all__ = ["filled", "write_data", "write_images", "write_texts"]

TRAIN, TEST = 40, 10  # rows of a class, where the builder takes as many of them as it wants
_VERBS, _NOUNS = ("show", "find", "open", "close", "send"), ("card", "song", "room", "taxi")


def filled(names: Sequence[str], count: int) -> list[str]:
    """Return `count` names, those given first.

    >>> filled(["cat"], 3)
    ['cat', 'class 1', 'class 2']
    """
    return [*names[:count], *(f"class {i}" for i in range(len(names), count))]


def write_data(folder: Path, names: Sequence[str]) -> None:
    """Write all named data sets of cpool into a folder; those that are there are left as they are.

    Args:
        folder: what `data=` of a stream then names.
        names: classes that the experiment names, which data sets with names of their own get.
    """
    if folder.exists():
        return
    for write in (_fashion, _cifar, _omniglot, _banking, _clinc, _snips):
        write(folder, names)


def write_images(
    folder: Path, names: Sequence[str], train: int, test: int, seed: Sequence[int] = (0,)
) -> None:
    """Write PNG files of 32 x 32 pixels as `folder/train/<class>/*` and `folder/test/<class>/*`."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("test", test)):
        for name in names:
            place = folder / part / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png", compress_level=0)


def write_texts(file: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows without their texts as a CSV; the first column gets a text in each row."""
    rng = np.random.default_rng(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        writer.writerows([_text(rng), *row] for row in rows)


def _text(rng: np.random.Generator) -> str:
    return f"{rng.choice(_VERBS)} the {rng.choice(_NOUNS)} {rng.integers(1000)}"


def _labelled(names: Sequence[str], count: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(count)
    return [(_text(rng), name) for name in names for _ in range(count)]


def _fashion(folder: Path, names: Sequence[str]) -> None:
    place, rng = folder / FASHION_MNIST.folder, np.random.default_rng(1)
    place.mkdir(parents=True)
    for files, count in ((FASHION_MNIST.files[:2], TRAIN), (FASHION_MNIST.files[2:], TEST)):
        images = rng.integers(0, 256, (10 * count, 28, 28), dtype=np.uint8)
        labels = np.repeat(np.arange(10, dtype=np.uint8), count)
        for file, array in zip(files, (images, labels), strict=True):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (place / file).write_bytes(gzip.compress(head + array.tobytes(), 0))


def _cifar(folder: Path, names: Sequence[str]) -> None:
    rng, arrays = np.random.default_rng(2), dict[str, Any]()
    for part, count in (("train", TRAIN), ("test", TEST)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (100 * count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.repeat(np.arange(100), count)
    np.savez(folder / CIFAR100_SMALL.files[0], classes=np.array(filled(names, 100)), **arrays)


def _omniglot(folder: Path, names: Sequence[str]) -> None:
    rng = np.random.default_rng(3)
    for file, first, alphabets in ((OMNIGLOT.files[0], 0, 30), (OMNIGLOT.files[1], 30, 20)):
        chars = [
            f"Alphabet {first + a}/character{c:02}" for a in range(alphabets) for c in range(14)
        ]
        packed = rng.integers(0, 256, (20 * len(chars), 1379), dtype=np.uint8)
        y = np.repeat(np.arange(len(chars)), 20)
        np.savez(folder / file, x_packed=packed, y=y, chars=np.array(chars))


def _banking(folder: Path, names: Sequence[str]) -> None:
    place, intents = folder / BANKING77.folder, filled(names, 77)
    place.mkdir()
    (place / "categories.json").write_text(json.dumps(intents), encoding="utf-8")
    for part, count in (("train", TRAIN), ("test", TEST)):
        rows = [[name] for name in intents for _ in range(count)]
        write_texts(place / f"{part}.csv", ("text", "category"), rows)


def _clinc(folder: Path, names: Sequence[str]) -> None:
    place, intents = folder / CLINC150.folder, filled(names, 150)
    place.mkdir()
    domains = {f"domain {k}": intents[15 * k : 15 * k + 15] for k in range(10)}
    queries = {"train": _labelled(intents, TRAIN), "test": _labelled(intents, TEST)}
    for file, content in zip(CLINC150.files, (queries, domains), strict=True):
        (place / file).write_text(json.dumps(content), encoding="utf-8")


def _snips(folder: Path, names: Sequence[str]) -> None:
    place = folder / SNIPS.folder
    place.mkdir()
    for file in SNIPS.files:
        part, name = file.removesuffix(".json").removesuffix("_full").split("_")
        count = TRAIN if part == "train" else TEST
        rows: list[Any] = [{"data": [{"text": text}]} for text, _ in _labelled([name], count)]
        (place / file).write_text(json.dumps({name: rows}), encoding="utf-8")
