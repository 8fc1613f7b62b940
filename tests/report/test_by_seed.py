"""A measurement seed by seed, in processes of its own."""

import sys

import pytest
import torch

from benchmarks.by_seed import measure_seeds
from cpool._io import read_json, write_json


def measure(backbone, seed):
    """Return what a seed gives, as a benchmark does."""
    assert torch.get_num_threads() == 1 and backbone.dtype == torch.float32
    return [{"seed": seed, "width": backbone.hidden_size}]


def test_only_missing_seeds_are_measured_and_they_stand_in_order(tmp_path, monkeypatch):
    out = tmp_path / "found.json"
    settings = {"model": "embedded", "dtype": "float32", "train": 4}
    write_json(out, {"settings": settings, "rows": [{"seed": 1, "width": "before"}]})
    monkeypatch.setattr(sys, "argv", ["x", "--model", "embedded", "--jobs", "2"])
    measure_seeds(measure, 3, out, {"train": 4}, "about")
    found = read_json(out)
    assert [(row["seed"], row["width"]) for row in found["rows"]] == [
        (0, 128),
        (1, "before"),
        (2, 128),
    ]
    assert found["seeds"] == 3 and found["settings"] == settings
    with pytest.raises(SystemExit, match="other settings"):
        measure_seeds(measure, 3, out, {"train": 5}, "about")
