"""cpool compare, report, inspect, list, --version and --help."""

import json

import pytest

import cpool as package
from cpool.methods import METHODS
from cpool.metrics import METRICS
from cpool.policies import POLICIES
from cpool.streams.registry import STREAMS


def test_compare_takes_files_and_folders(cpool, finished):
    done = cpool("compare", finished, finished / "results.json")
    assert done.exit_code == 0
    assert done.stdout.count("ncm") >= 2
    assert done.stderr == ""


@pytest.mark.parametrize("part", ["backbone", "stream"])
def test_compare_warns_where_numbers_do_not_compare(cpool, finished, tmp_path, part):
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    results[part]["fingerprint"] = "0" * 64
    other = tmp_path / "other.json"
    other.write_text(json.dumps(results), encoding="utf-8")
    done = cpool("compare", finished, other)
    assert done.exit_code == 0
    assert f"Warning: the {part} differs between the runs" in " ".join(done.stdout.split())
    assert done.stderr == ""


def test_compare_names_runs_of_one_name_by_their_folder(cpool, finished, tmp_path):
    for name in ("short", "long"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes((finished / "results.json").read_bytes())
    done = cpool("compare", tmp_path / "short", tmp_path / "long" / "results.json")
    runs = {line.split()[0] for line in done.stdout.splitlines() if "ncm" in line}
    assert {"short", "long"} <= runs
    assert "small" not in done.stdout


def test_compare_of_something_else_is_an_error(cpool, tmp_path):
    (tmp_path / "x.json").write_text('{"runs": 3}', encoding="utf-8")
    for path in (tmp_path / "x.json", tmp_path / "none.json", tmp_path):
        done = cpool("compare", path)
        assert done.exit_code == 2
        assert done.stderr.startswith("cpool: expected ")


def test_report(cpool, finished, tmp_path):
    out = tmp_path / "page.html"
    done = cpool("report", finished, "--out", out)
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    assert "<html" in out.read_text(encoding="utf-8")
    assert cpool("report", tmp_path / "none").exit_code == 2
    assert cpool("report", tmp_path).exit_code == 2


def test_inspect(cpool, finished):
    done = cpool("inspect", finished / "checkpoints" / "l2p" / "seed0")
    assert done.exit_code == 0
    for word in (
        "l2p (pool_size=4",
        "seed 0",
        "shared.0",
        "Branch pool: 4 slots",
        "task 0, task 1",
    ):
        assert word in done.stdout
    assert "SHA-256 checked" in done.stdout
    assert cpool("inspect", finished / "checkpoints" / "ncm" / "seed0").exit_code == 0


def test_inspect_of_an_altered_checkpoint(cpool, finished, tmp_path):
    import shutil

    shutil.copytree(finished / "checkpoints" / "l2p" / "seed0", tmp_path / "c")
    file = next((tmp_path / "c").glob("head*"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    done = cpool("inspect", tmp_path / "c")
    assert done.exit_code == 2
    assert "altered" in done.stderr


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("methods", METHODS),
        ("streams", STREAMS),
        ("policies", POLICIES),
        ("metrics", METRICS),
        ("backbones", ["embedded", "vit", "bert"]),
    ],
)
def test_list_names_everything(cpool, kind, names):
    done = cpool("list", kind)
    assert done.exit_code == 0
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert set(names) <= listed
    assert all(len(line.split()) > 2 for line in done.stdout.splitlines())


def test_list_of_something_else_names_the_nearest(cpool):
    done = cpool("list", "policy")
    assert done.exit_code == 2
    assert "'policies'" in done.stderr


def test_version(cpool):
    assert cpool("--version").stdout == f"cpool {package.__version__}\n"


@pytest.mark.parametrize("command", ["run", "compare", "report", "inspect", "list"])
def test_help_has_an_example(cpool, command):
    done = cpool(command, "--help")
    assert done.exit_code == 0
    assert f"cpool {command}" in done.stdout.partition("Example")[2]


def test_usage_errors_have_status_2(cpool):
    for words in (["run"], ["nonsense"], ["run", "x.toml", "--nonsense"]):
        assert cpool(*words).exit_code == 2
