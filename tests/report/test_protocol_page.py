"""The page of the protocol says what experiment files and streams do."""

from pathlib import Path

import numpy as np
import pytest

from cpool.experiment.reading import read_experiment
from cpool.streams import load_stream

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pages" / "protocol.md").read_text(encoding="utf-8")
RULE = PAGE[PAGE.index("What no grid names") : PAGE.index("## What is measured")]
FILES = [
    path
    for path in sorted((ROOT / "benchmarks" / "experiments").glob("*.toml"))
    if "\n[search]" in path.read_text(encoding="utf-8")  # tables of the others say what they are
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_setting_that_a_file_changes_is_named(path: Path) -> None:
    experiment = read_experiment(path)
    assert experiment.search is not None
    changed = set()
    for row in experiment.methods:
        default, own = type(row.method)().hyper_parameters(), row.method.settings
        given = row.method.hyper_parameters()
        changed |= {key for key in given if key not in row.grid and given[key] != default[key]}
        changed |= {
            f"train.{key}"
            for key, value in row.train.__dict__.items()
            if f"train.{key}" not in row.grid and value != getattr(own, key)
        }
    assert changed
    assert {key for key in changed if f"`{key}`" not in RULE and f"`{key} =" not in RULE} == set()


def test_domains_of_one_set_of_images_share_them() -> None:
    stream = load_stream("permuted_digits", tasks=2, seed=0)
    assert "`permuted_digits`" in PAGE

    def pixels(images: np.ndarray) -> set[bytes]:
        return {np.sort(image, axis=None).tobytes() for image in images}

    held, trained = pixels(stream[0].validation.x), pixels(stream[1].train.x)
    assert len(held & trained) > len(held) / 2
    assert "validation image of one domain may be a training image of another" in " ".join(
        PAGE.split()
    )
    for task in stream:
        tested = pixels(task.test.x)
        assert len(tested & pixels(stream[0].train.x)) < 0.01 * len(tested)  # none, or twins
