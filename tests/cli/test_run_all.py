"""All benchmarks with one command: order, one search for all seeds, failures, and going on."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run_all
from benchmarks.models import MADE
from benchmarks.run_all import Job, make_plans, work_through
from cpool import Learner
from cpool.experiment.reading import read_experiment
from tests.experiment.tiny import SMALL, write_experiment

SEARCH = SMALL.replace("[[method]]\nname", "[search]\nbudget = 2\n[[method]]\nname", 1)
SEARCH += '[method.search]\n"train.lr" = [0.1, 0.01]\n'


@pytest.fixture
def started(monkeypatch, cpool) -> list[str]:
    """Do the work of a job in this process, and start one that ends with the same status."""
    names: list[str] = []

    def start(job: Job) -> None:
        search = job.plan.search
        assert search is None or search is job or search.code == 0  # seeds wait for its end
        names.append(job.name)
        done = cpool("run", job.plan.file, "--resume", "--out", job.folder, *job.words)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_text(done.output, encoding="utf-8")
        code = f"raise SystemExit({done.exit_code})"
        job.process = subprocess.Popen([sys.executable, "-c", code])

    monkeypatch.setattr(Job, "start", start)
    return names


@pytest.fixture
def folder(tmp_path, tiny_backbone) -> Path:
    (tmp_path / "experiments").mkdir()
    write_experiment(tmp_path / "experiments" / "b.toml", tiny_backbone, SEARCH)
    return tmp_path / "experiments"


def test_the_search_is_done_once_before_the_seeds(started, folder, tmp_path, capsys):
    plans, faults = make_plans(folder, [], tmp_path / "work")
    work_through(plans, 2, tmp_path / "results")
    assert faults == {}
    assert plans[0].error is None
    assert started == ["b search", "b seed0", "b seed1"]
    out = tmp_path / "results" / "b"
    assert {path.name for path in out.iterdir()} == {
        "results.json", "config.toml", "environment.json", "search.json", "table.md",
    }  # fmt: skip
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in results["runs"]] == [0, 0, 1, 1]
    trials = json.loads((out / "search.json").read_text(encoding="utf-8"))["trials"]
    assert len(trials) == 2
    spent = sum(trial["seconds"] for trial in trials)
    searched = [run["search"]["seconds"] for run in results["runs"] if run["label"] == "l2p"]
    assert searched == [spent, spent]
    assert "[3/3] b seed" in capsys.readouterr().out
    # Once more: nothing is tried or trained again.
    plans, _ = make_plans(folder, [], tmp_path / "work")
    work_through(plans, 1, tmp_path / "results")
    assert "trial 1/2" not in plans[0].jobs[0].log.read_text(encoding="utf-8")
    assert "[1/2]" not in plans[0].jobs[1].log.read_text(encoding="utf-8")
    again = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert again == results


def test_another_machine_goes_on_with_what_is_finished(started, folder, tmp_path, monkeypatch):
    results = tmp_path / "results"
    original = Job.start

    def first_seed_only(job: Job) -> None:
        if job.folder.name == "seed1":
            raise KeyboardInterrupt
        original(job)

    monkeypatch.setattr(Job, "start", first_seed_only)
    plans, _ = make_plans(folder, [], tmp_path / "here")
    with pytest.raises(KeyboardInterrupt):
        work_through(plans, 1, results)
    assert {path.name for path in (results / "b" / "parts").iterdir()} == {"search", "seed0"}
    monkeypatch.setattr(Job, "start", original)
    plans, _ = make_plans(folder, [], tmp_path / "there")
    work_through(plans, 1, results)
    assert plans[0].error is None
    log = plans[0].jobs[1].log.read_text(encoding="utf-8")
    assert "[1/2]" not in log  # seed 0 was not trained again
    merged = json.loads((results / "b" / "results.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in merged["runs"]] == [0, 0, 1, 1]
    assert not (results / "b" / "parts").exists()


def test_of_an_experiment_that_got_more_methods_those_alone_are_run(
    started, folder, tmp_path, tiny_backbone, capsys
):
    file, results = folder / "b.toml", tmp_path / "results"
    write_experiment(file, tiny_backbone, SMALL)
    work_through(make_plans(folder, [], tmp_path / "here")[0], 1, results)
    first = json.loads((results / "b" / "results.json").read_text(encoding="utf-8"))
    # A fresh clone measures the same experiment anew.
    plans, _ = make_plans(folder, [], tmp_path / "anew")
    work_through(plans, 1, results)
    assert "[1/2]" in plans[0].seeds[0].log.read_text(encoding="utf-8")
    first = json.loads((results / "b" / "results.json").read_text(encoding="utf-8"))
    write_experiment(file, tiny_backbone, SMALL + '[[method]]\nname = "slda"\n')
    plans, _ = make_plans(folder, [], tmp_path / "there")
    work_through(plans, 1, results)
    assert plans[0].error is None
    assert "b: only methods that its results do not have" in capsys.readouterr().out
    for job in plans[0].seeds:
        log = job.log.read_text(encoding="utf-8")
        assert "[1/3]" not in log and "[3/3]" in log
    merged = json.loads((results / "b" / "results.json").read_text(encoding="utf-8"))
    assert merged["complete"]
    assert [run["label"] for run in merged["runs"]] == ["ncm", "l2p", "slda"] * 2
    assert [run for run in merged["runs"] if run["label"] != "slda"] == first["runs"]


def test_rows_of_a_seed_that_is_stopped_are_kept(started, folder, tmp_path, monkeypatch):
    results = tmp_path / "results"
    original, fit_task = Job.start, Learner.fit_task

    def no_prompts(learner: Learner, *task) -> None:
        if learner.model.method.name == "l2p":
            raise KeyboardInterrupt
        fit_task(learner, *task)

    def stopped_amid_the_first(job: Job) -> None:
        if job.folder.name == "seed1":
            raise KeyboardInterrupt
        if job.folder.name == "seed0":
            monkeypatch.setattr(Learner, "fit_task", no_prompts)
        original(job)
        if job.folder.name == "seed0":
            job.process.wait()
            code = "import time; time.sleep(60)"
            job.process = subprocess.Popen([sys.executable, "-c", code])

    monkeypatch.setattr(Job, "start", stopped_amid_the_first)
    plans, _ = make_plans(folder, [], tmp_path / "here")
    with pytest.raises(KeyboardInterrupt):
        work_through(plans, 2, results)
    assert {path.name for path in (results / "b" / "parts").iterdir()} == {"search", "seed0"}
    kept = json.loads((results / "b" / "parts" / "seed0" / "results.json").read_text("utf-8"))
    assert [run["label"] for run in kept["runs"]] == ["ncm"]
    monkeypatch.setattr(Job, "start", original)
    monkeypatch.setattr(Learner, "fit_task", fit_task)
    plans, _ = make_plans(folder, [], tmp_path / "there")
    work_through(plans, 1, results)
    assert plans[0].error is None
    log = plans[0].jobs[1].log.read_text(encoding="utf-8")
    assert "[1/2]" not in log and "[2/2] l2p" in log
    merged = json.loads((results / "b" / "results.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in merged["runs"]] == [0, 0, 1, 1]
    assert kept["runs"][0] in merged["runs"]


def test_one_that_fails_does_not_stop_the_others(started, folder, tiny_backbone, tmp_path, capsys):
    late = SMALL.replace("top_k = 2", "top_k = 9")
    write_experiment(folder / "a.toml", tiny_backbone, late)
    write_experiment(folder / "c.toml", tiny_backbone, SMALL.replace("l2p", "l2q"))
    plans, faults = make_plans(folder, [], tmp_path / "work")
    work_through(plans, 1, tmp_path / "results")
    assert "Did you mean 'l2p'" in faults["c"]
    errors = {plan.name: plan.error for plan in plans}
    assert errors["b"] is None
    assert "top-k of at most 4" in errors["a"]
    assert "a seed0.log" in errors["a"].replace("/", " ")
    assert started == ["a seed0", "b search", "b seed0", "b seed1"]  # no second seed of a
    assert (tmp_path / "results" / "b" / "results.json").is_file()
    assert not (tmp_path / "results" / "a").exists()
    assert "a seed0: FAILED with status 2" in capsys.readouterr().out


def test_names_pick_some_and_unknown_ones_are_faults(folder, tmp_path):
    plans, faults = make_plans(folder, ["b", "nothing"], tmp_path)
    assert [plan.name for plan in plans] == ["b"]
    assert "nothing.toml" in faults["nothing"]


def test_a_model_that_is_to_be_made_is_named_with_its_command(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, command in MADE.items():
        write_experiment(folder / "b.toml", Path(name))
        plans, faults = make_plans(folder, [], tmp_path)
        assert plans == []
        assert faults["b"].startswith(f"expected a model in {name}; got none there.")
        assert faults["b"].endswith(command)
        assert importlib.util.find_spec(command.split()[-1]) is not None
        Path(name).mkdir(parents=True)
        (Path(name) / "model.safetensors").touch()
        assert make_plans(folder, [], tmp_path)[1] == {}


def test_every_model_that_is_made_is_known_and_made_first(root):
    files = sorted((root / "benchmarks" / "experiments").glob("*.toml"))
    names = {str(read_experiment(file).backbone["name"]) for file in files}
    assert {name for name in names if name.startswith("build/")} == set(MADE)
    recipe = (
        (root / "Makefile").read_text(encoding="utf-8").split("\nbenchmarks: ")[1].split("\n\n")[0]
    )
    for command in MADE.values():
        made = command.replace("python", "$(BIN)/python", 1)
        assert recipe.index(made) < recipe.index("benchmarks.run_all")


def test_the_command_says_what_failed_and_ends_with_status_1(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_all, "work_through", lambda plans, jobs, results: None)
    words = ["run_all", "nothing", "--experiments", str(folder), "--results", str(tmp_path / "r")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        run_all.main()
    assert stop.value.code == 1
    assert "nothing: no nothing.toml" in capsys.readouterr().err


def test_stopping_stops_the_processes(folder, tmp_path, monkeypatch):
    plans, _ = make_plans(folder, [], tmp_path / "work")

    def start(job: Job) -> None:
        job.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "start", start)
    monkeypatch.setattr(run_all.time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        work_through(plans, 2, tmp_path / "results")
    process = plans[0].jobs[0].process
    assert process is not None
    assert process.poll() is not None
