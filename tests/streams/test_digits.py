"""Streams of scikit-learn's digits: values, sizes, order in another process, domains."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cpool.errors import ConfigError
from cpool.streams import permuted_digits, rotated_digits, split_digits
from cpool.streams._transforms import rotate

FINGERPRINT = "4d727dee1b5f3e009a5707e0dd796a6371b6bf54eac41f6644ff11de11394e8d"
VALIDATION = "e0700b8145f13e33434a54aa49c828989e628b3cc061164606ca3b5d75761a80"
ORDER = (4, 6, 2, 7, 3, 5, 9, 0, 8, 1)


def test_sizes_and_values() -> None:
    stream = split_digits(validation=0)
    assert stream.describe()["train_sizes"] == [290, 285, 291, 286, 285]
    assert stream.describe()["test_sizes"] == [72, 71, 74, 72, 71]
    bunch = load_digits()
    x, x_test, y, y_test = train_test_split(
        bunch.images, bunch.target, test_size=360, random_state=0, stratify=bunch.target
    )
    joint = stream.joint()
    for split, images, labels, offset in (
        (joint.train, x, y, 0),
        (joint.test, x_test, y_test, 1437),
    ):
        rows = split.ids - offset
        pixels = np.asarray(split.x)
        assert pixels.dtype == np.uint8 and pixels.max() == 255
        assert np.array_equal(pixels, np.round(images[rows] * 255 / 16))
        assert np.array_equal(split.y, labels[rows])


def test_order_and_fingerprint_are_the_same_in_every_process(root: Path) -> None:
    stream = split_digits(seed=0)
    assert stream.class_order == ORDER and stream.fingerprint == FINGERPRINT
    code = (
        "from cpool.streams import split_digits; s = split_digits(seed=0); import hashlib;"
        "print(s.fingerprint, s.class_order, hashlib.sha256(b''.join(t.validation.ids.tobytes()"
        " for t in s)).hexdigest(), '', sep='|', end='')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split("|") == [FINGERPRINT, str(ORDER), VALIDATION, ""]


def test_rotation() -> None:
    stream = rotated_digits(angles=[0, 90, 180, 30], validation=0)
    x = [np.asarray(task.train.x) for task in stream]
    assert np.array_equal(x[0], np.asarray(split_digits(tasks=1, validation=0)[0].train.x))
    assert np.array_equal(x[1], np.rot90(x[0], axes=(1, 2)))
    assert np.array_equal(x[2], np.rot90(x[0], 2, axes=(1, 2)))
    assert x[3].dtype == np.uint8 and not np.array_equal(x[3], x[0])
    # Most of the ink is inside the circle that every rotation keeps.
    assert 0.8 < x[3].mean() / x[0].mean() < 1.1
    assert np.array_equal(rotate(rotate(x[0], 90), -90), x[0])


def test_rotation_is_counter_clockwise_and_bilinear() -> None:
    dot = np.zeros((1, 9, 9), np.uint8)
    dot[0, 4, 8] = 200  # right of the centre
    turned = rotate(dot, 45)[0].astype(int)
    assert turned[:4, 5:].sum() == turned.sum() > 0
    assert turned.max() < 200


def test_domains_do_not_depend_on_the_seed() -> None:
    for build in (rotated_digits, permuted_digits):
        one, two = build(tasks=3, seed=0), build(tasks=3, seed=1)
        assert one.scenario == "domain" and one.fingerprint == two.fingerprint
        for a, b in zip(one, two, strict=True):
            assert np.array_equal(np.asarray(a.test.x), np.asarray(b.test.x))
            assert np.array_equal(a.test.ids, b.test.ids)
            assert not np.array_equal(a.validation.ids, b.validation.ids)
        assert one.describe()["train_sizes"] == [1292] * 3
        assert one.describe()["test_sizes"] == [360] * 3


def test_permutation_keeps_the_pixels_and_has_a_seed_of_its_own() -> None:
    one, two = permuted_digits(tasks=3), permuted_digits(tasks=3, permutation_seed=1)
    plain, moved, again = (np.asarray(task.test.x).reshape(360, -1) for task in one)
    assert [t.name for t in one] == ["unpermuted", "permuted 1", "permuted 2"]
    assert np.array_equal(np.sort(plain), np.sort(moved)) and not np.array_equal(moved, again)
    column = {bytes(c): i for i, c in enumerate(moved.T.copy())}
    assert all(bytes(c) in column for c in plain.T.copy())
    assert one.fingerprint != two.fingerprint
    assert np.array_equal(np.asarray(one[0].test.x), np.asarray(two[0].test.x))


def test_options() -> None:
    names = [t.name for t in rotated_digits(tasks=2, max_angle=90, shuffle=True, seed=1)]
    assert sorted(names) == ["rotated 0", "rotated 45"]
    for bad in ({"angles": []}, {"angles": [0, float("nan")]}, {"angles": [5, 5]}):
        with pytest.raises(ConfigError, match="finite angles"):
            rotated_digits(**bad)
    with pytest.raises(ConfigError, match="finite angles"):
        rotated_digits(max_angle=0)
    for build in (rotated_digits, permuted_digits):
        with pytest.raises(ConfigError, match="number of domains"):
            build(tasks=0)
    with pytest.raises(ConfigError, match="permutation_seed as a whole"):
        permuted_digits(permutation_seed=-1)
    assert split_digits(scenario="task").scenario == "task"
