"""The page of the protocol says what experiment files and streams do."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from cpool.experiment.reading import read_experiment
from cpool.methods import METHODS
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


def test_defaults_that_are_not_the_papers_are_those_of_the_methods() -> None:
    methods = (ROOT / "docs" / "pages" / "methods.md").read_text(encoding="utf-8")
    part = methods[methods.index("## Other defaults") :].split("\n## ")[0]
    rows = [[c.strip() for c in line.split("|")[1:3]] for line in part.splitlines() if "|" in line]
    named = {}
    for method, cell in rows[2:]:
        kind = METHODS[method.strip("`")]
        settings = {f"train.{key}": value for key, value in kind.train.__dict__.items()}
        given = kind().hyper_parameters() | settings
        named[kind.name] = re.findall(r"`([\w.]+) = ([^`]+)`", cell)
        assert named[kind.name], cell
        for key, value in named[kind.name]:
            assert given[key] == tomllib.loads(f"value = {value}")["value"], (kind.name, key)
    assert {"coda_prompt", "mvp", "osprompt"} <= set(named)
    in_tables = {
        row.method.name
        for path in FILES
        for row in read_experiment(path).methods
        if {key for key, _ in named.get(row.method.name, ())} - set(row.grid)
        and "template" not in row.method.hyper_parameters()  # of a language model: no such stream
    }
    assert {name for name in named if f"`{name}`" in RULE} == in_tables


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
