"""A tiny backbone on disk, and an experiment file that names it."""

from pathlib import Path

import pytest

from tests.experiment.tiny import write_backbone, write_experiment


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def small(tmp_path, tiny_backbone) -> Path:
    """The file of a small experiment: NCM and L2P, two tasks, two seeds."""
    return write_experiment(tmp_path / "small.toml", tiny_backbone)
