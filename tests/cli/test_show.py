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


def altered(finished, tmp_path, change):
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    change(results)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(results), encoding="utf-8")
    return other


def set_(*path, value):
    def change(results):
        for key in path[:-1]:
            results = results[key]
        results[path[-1]] = value

    return change


def without_seed_1(results):
    results["runs"] = [run for run in results["runs"] if run["seed"] == 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_("backbone", "fingerprint", value="0" * 64), "backbone.fingerprint: "),
        (set_("backbone", "pooling", value="mean"), "backbone.pooling: cls in {a}; mean in {b}"),
        (set_("stream", "fingerprint", value="0" * 64), "; 000000000000… in {b}"),
        (set_("scenario", value="task"), None),
        (set_("stream", "scenario", value="task"), "stream.scenario: class in {a}; task in {b}"),
        (set_("stream", "tasks", value=5), "stream.tasks: 2 in {a}; 5 in {b}"),
        (set_("stream", "options", "train_per_class", value=5), 'stream.options: {{"tasks": 2'),
        (set_("stream", "options", "validation", value=0.2), None),
        (set_("evaluated_on", value="validation"), "evaluated_on: test in {a}; validation in {b}"),
        (set_("runs", 0, "class_order", value=list(range(10))), "class order of seed 0: "),
        (without_seed_1, "seeds: 0, 1 in {a}; 0 in {b}"),
        (set_("search", value={"budget": 4}), 'search: none in {a}; {{"budget": 4'),
        (set_("train", value={"epochs": 1}), None),
        (set_("name", value="other"), None),
    ],
)
def test_compare_refuses_runs_of_another_protocol(cpool, finished, tmp_path, change, says):
    other = altered(finished, tmp_path, change)
    done = cpool("compare", finished, other)
    if says is None:
        assert (done.exit_code, done.stderr) == (0, "")
        return
    assert (done.exit_code, done.stdout) == (2, "")
    assert says.format(a=finished, b=other) in done.stderr
    assert "--force" in done.stderr


def test_compare_with_force_shows_the_table_and_what_differs(cpool, finished, tmp_path):
    other = altered(finished, tmp_path, set_("stream", "fingerprint", value="0" * 64))
    done = cpool("compare", "--force", finished, other)
    assert (done.exit_code, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert "Warning: --force; these differ: stream.fingerprint: " in said
    assert "Warning: the stream differs between the runs" in said
    assert done.stdout.count("ncm") >= 2


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (("search",), "search: none in {a}; not recorded in {b}"),
        (("stream", "options"), '"scenario": "class"}} in {a}; not recorded in {b}'),
        (("backbone", "dtype"), "backbone.dtype: float32 in {a}; not recorded in {b}"),
        (("runs", 0, "class_order"), None),  # the other method of the seed has it
        (("not_run",), None),
    ],
)
def test_what_only_one_file_records_is_not_taken_to_be_the_same(
    cpool, finished, tmp_path, path, says
):
    def old(results):
        *keys, last = path
        for key in keys:
            results = results[key]
        del results[last]

    other = altered(finished, tmp_path, old)
    done = cpool("compare", finished, other)
    assert done.exit_code == (0 if says is None else 2), done.stderr
    if says is not None:
        assert says.format(a=finished, b=other) in done.stderr
        assert "Run them alike (again, what a file does not record)" in done.stderr
        assert cpool("compare", "--force", finished, other).exit_code == 0
    assert cpool("compare", other, other).exit_code == 0  # both do not say it


def test_a_seed_that_one_file_lacks_is_named_once(cpool, finished, tmp_path):
    done = cpool("compare", finished, altered(finished, tmp_path, without_seed_1))
    assert "seeds: 0, 1 in" in done.stderr
    assert "class order" not in done.stderr


def test_an_order_of_classes_that_only_one_file_records_is_named(cpool, finished, tmp_path):
    def old(results):
        for run in results["runs"]:
            del run["class_order"]

    done = cpool("compare", finished, altered(finished, tmp_path, old))
    assert done.exit_code == 2
    assert done.stderr.count("class order of seed ") == 2
    assert "not recorded in" in done.stderr


def test_a_searched_and_an_unsearched_experiment_are_no_table(cpool, root):
    paths = [root / "benchmarks" / "results" / name for name in ("digits", "quickstart")]
    done = cpool("compare", *paths)
    assert (done.exit_code, done.stdout) == (2, "")
    assert 'search: {"budget": 3, "validation": 0.2' in done.stderr
    assert f"not recorded in {paths[1]}" in done.stderr


def test_tasks_of_another_number_are_not_called_other_data(cpool, finished, tmp_path):
    def five(results):
        results["stream"]["tasks"] = 5
        results["stream"]["train_sizes"] = [sum(results["stream"]["train_sizes"]), 0, 0, 0, 0]

    done = cpool("compare", "--force", finished, altered(finished, tmp_path, five))
    said = " ".join(done.stdout.split())
    assert "these differ: stream.tasks: 2 in " in said
    assert "Warning: the number of tasks differs between the runs" in said
    assert "data" not in said.replace(str(finished), "").replace(str(tmp_path), "")


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
