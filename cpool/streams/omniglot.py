"""Omniglot: handwritten characters of 50 alphabets, 20 drawings each."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cpool.errors import ConfigError
from cpool.streams._arrays import damaged, read_npz
from cpool.streams._checks import check_seed, check_whole
from cpool.streams._locate import DataSet, locate
from cpool.streams._source import Source, read_source
from cpool.streams.base import Stream
from cpool.streams.scenarios import by_class

__all__ = ["OMNIGLOT", "Alphabet", "character_source", "omniglot50", "read_alphabets"]

_SIDE, _DRAWERS = 105, 20
OMNIGLOT = DataSet(
    title="Omniglot",
    folder="",
    files=("omniglot_images_background.npz", "omniglot_images_evaluation.npz"),
    origin="brendenlake/omniglot on GitHub, as one npz a set of x_packed (the 105 x 105 pixels of "
    "each image, ink 1, by numpy.packbits), y (the character), and chars (alphabet/character)",
)


class Alphabet(NamedTuple):
    """Characters of one alphabet: their names [c], and packed images [c 20 bytes]."""

    name: str
    characters: list[str]
    packed: npt.NDArray[np.uint8]


def omniglot50(
    *,
    tasks: int = 50,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    classes_per_task: int | None = 10,
    train_per_class: int = 15,
    test_per_class: int = 5,
    subset_seed: int = 0,
) -> Stream:
    """Build Omniglot-50: an alphabet a task; images uint8 [n 105 105], ink 255 on 0.

    Each character was drawn by 20 people. The drawings of some of them are for training, those of
    others for the test: the same places among the 20 for every character.

    Args:
        tasks: how many alphabets, the first ones of background and evaluation set in this order;
            50 are all.
        seed: shuffles the alphabets, and draws the validation split.
        validation: as in `class_incremental`.
        data: folder that holds the two npz files; by default the environment's CPOOL_DATA.
        classes_per_task: at most so many characters of each alphabet, the first ones; with none
            all (14 to 55, 1,623 in all, which takes a gigabyte of memory).
        train_per_class: training drawings of each character.
        test_per_class: test drawings of each character; at most 20 with those for training.
        subset_seed: draws whose drawings are for training and for the test.

    Raises:
        DataError: the files are missing or damaged.
        ConfigError: an option that does not fit.

    Reference: B. M. Lake, R. Salakhutdinov and J. B. Tenenbaum, Human-Level Concept Learning
    through Probabilistic Program Induction, Science, 2015 (MIT).
    """
    alphabets = [a for path in locate(OMNIGLOT, data) for a in read_alphabets(path)]
    if check_whole(tasks, "tasks") > len(alphabets):
        remedy = "Leave it out for all."
        raise ConfigError(
            expected=f"tasks from 1 to {len(alphabets)}", got=str(tasks), remedy=remedy
        )
    if classes_per_task is not None:
        check_whole(classes_per_task, "classes_per_task", 2)
    kept = [Alphabet(a.name, a.characters[:classes_per_task], a.packed) for a in alphabets[:tasks]]
    source = character_source(kept, train_per_class, test_per_class, subset_seed)
    order = np.random.default_rng(check_seed(seed)).permutation(tasks).tolist()
    return by_class(
        source,
        tasks=[kept[i].characters for i in order],
        task_names=[kept[i].name for i in order],
        seed=seed,
        validation=validation,
        name="omniglot50",
    )


def read_alphabets(path: Path) -> list[Alphabet]:
    """Return the alphabets of a file in its order.

    Raises:
        DataError: the file is damaged, or holds something else.
    """
    packed, labels, names = read_npz(path, ("x_packed", "y", "chars"))
    wide = (len(names) * _DRAWERS, -(-_SIDE * _SIDE // 8))
    if packed.shape != wide or not np.array_equal(labels, np.repeat(np.arange(len(names)), 20)):
        got = f"images {list(packed.shape)} of {len(names)} characters"
        raise damaged(path, got)
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names.tolist()):
        places.setdefault(str(name).partition("/")[0], []).append(place)
    drawings = packed.reshape(len(names), _DRAWERS, -1)
    return [
        Alphabet(name, [str(names[p]) for p in where], drawings[where])
        for name, where in places.items()
    ]


def character_source(alphabets: list[Alphabet], train: int, test: int, seed: int) -> Source:
    """Return the first characters of alphabets, as many as each names, as images and classes."""
    sizes = [check_whole(n, w) for n, w in ((train, "train_per_class"), (test, "test_per_class"))]
    if sum(sizes) > _DRAWERS:
        raise ConfigError(
            expected=f"train_per_class + test_per_class of at most {_DRAWERS}, the drawings there",
            got=f"{train} + {test}",
            remedy="Use train_per_class=15, test_per_class=5.",
        )
    seed = check_seed(seed, "subset_seed")
    drawers = np.random.default_rng([seed, 2]).permutation(_DRAWERS)
    names = [name for alphabet in alphabets for name in alphabet.characters]
    packed = np.concatenate([a.packed[: len(a.characters)] for a in alphabets])
    splits: list[tuple[Any, Any]] = []
    for chosen in (drawers[:train], drawers[train : train + test]):
        y = np.repeat(np.arange(len(names)), len(chosen))
        splits.append((_unpack(packed[:, np.sort(chosen)]), y))
    return read_source(*splits[0], *splits[1], names)


def _unpack(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return images [n 105 105], ink 255, from packed ones [c d bytes]."""
    bits = np.unpackbits(packed.reshape(-1, packed.shape[-1]), axis=1, count=_SIDE * _SIDE)
    return bits.reshape(-1, _SIDE, _SIDE) * np.uint8(255)
