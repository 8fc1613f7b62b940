"""The set-up script: it skips what is done, notices what changed, and says how to go on."""

import pytest

from tests.tools import model_packages, setup_env


@pytest.fixture
def tree(tmp_path, monkeypatch, root):
    """A copy of the files that decide about the environment, with an empty .venv."""
    for name in ("pyproject.toml", "constraints.txt", "cpool/_version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((root / name).read_bytes())
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(setup_env, "ROOT", str(tmp_path))
    monkeypatch.setattr(setup_env, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(setup_env, "LOG", str(tmp_path / ".venv" / "setup.log"))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "again"),
    [
        ("pyproject.toml", '"numpy>=1.26"', '"numpy>=2"', True),
        ("pyproject.toml", "line-length = 100", "line-length = 99", False),
        ("constraints.txt", "torch==", "torch==9", True),
        ("cpool/_version.py", "__version__ = ", "__version__ = 9 * ", True),
    ],
)
def test_it_installs_again_when_requirements_change_and_only_then(tree, file, old, new, again):
    assert not setup_env.fresh("test")
    setup_env.stamp("test")
    assert setup_env.fresh("test")
    assert not setup_env.fresh("run")
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new, 1))
    assert setup_env.fresh("test") is not again


@pytest.mark.parametrize(
    ("said", "remedy"),
    [("No space left on device", "Free about"), ("something new", "mend what the log names")],
)
def test_a_failure_shows_the_log_and_a_remedy(tree, capsys, said, remedy):
    with pytest.raises(SystemExit, match=remedy):
        setup_env.step("try", ["sh", "-c", f"echo {said}; exit 3"])
    assert f"| {said}" in capsys.readouterr().out


def test_a_step_that_works_prints_one_line(tree, capsys):
    setup_env.step("try", ["sh", "-c", "echo much; echo text"])
    assert capsys.readouterr().out == "set-up: try ... 0 s\n"


def test_other_weights_are_noticed(tmp_path, monkeypatch):
    other = tmp_path / "model.safetensors"
    other.write_bytes(b"other")
    monkeypatch.setattr(model_packages, "weights", lambda name: other)
    assert all("expected SHA-256" in line for line in model_packages.problems())
    assert len(model_packages.problems()) == len(model_packages.MODELS)
