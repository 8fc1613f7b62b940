"""The command line in this process, on a tiny backbone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cpool.cli import app
from tests.experiment.tiny import write_backbone, write_experiment


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def small(tmp_path, tiny_backbone, monkeypatch) -> Path:
    """The file of a small experiment, in a folder of its own that is the current one."""
    monkeypatch.chdir(tmp_path)
    return write_experiment(Path("small.toml"), tiny_backbone)


@pytest.fixture
def cpool() -> Callable[..., Result]:
    """Call the command line with these words."""
    runner = CliRunner()

    def call(*words: object) -> Result:
        result = runner.invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_backbone) -> Path:
    """The folder of a finished run of the small experiment; tests only read it."""
    folder = tmp_path_factory.mktemp("finished")
    file = write_experiment(folder / "small.toml", tiny_backbone)
    result = CliRunner().invoke(app, ["run", str(file), "--out", str(folder / "run")])
    assert result.exit_code == 0, result.output
    (folder / "stdout.txt").write_text(result.stdout, encoding="utf-8")
    return folder / "run"
