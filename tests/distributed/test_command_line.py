"""`cpool run` in two real processes, with the options that are for one or speak a lot."""

import json

import pytest

from tests.distributed.group import launch, launched

pytestmark = pytest.mark.timeout(600)

RUN = """
seeds = [0]
backbone = { name = "embedded" }
stream = { name = "split_digits", tasks = 2, train_per_class = 6, test_per_class = 6 }

[[method]]
name = "ncm"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(RUN, encoding="utf-8")
    return path


def test_ray_is_refused_before_anything_starts(file, tmp_path):
    """Each process would start jobs, and wait for the other one for ever."""
    done = launch("cpool", "run", str(file), "--ray", "--out", str(tmp_path / "out"))
    assert done.returncode != 0 and not done.stdout
    assert "expected one process for --ray" in done.stderr and "got 2 processes" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_dry_run_is_one_of_all_processes(file, tmp_path, monkeypatch):
    """Without --out they have to agree on a folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    said = launched("cpool", "run", str(file), "--dry-run")
    assert said.count("DRY RUN: ") == said.count("The experiment starts") == 1
    (out,) = tmp_path.glob("cpool-dry-run-*")
    results = json.loads((out / "results.json").read_text("utf-8"))
    assert results["complete"] and results["dry_run"]
    assert (out / "report.html").is_file() and not [*tmp_path.glob("cpool-stand-ins-*")]
