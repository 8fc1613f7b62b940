"""Search: judged on validation data only, the best is run, and what was done is not done again."""

import json
import re
import shutil

import numpy as np
import pytest

from cpool.errors import CheckpointError, ConfigError, DataError
from cpool.experiment.code import OUTSIDE, PACKAGE, source_digest
from cpool.experiment.config import SearchPlan
from cpool.experiment.folder import RunFolder
from cpool.experiment.parts import open_stream
from cpool.experiment.reading import read_experiment
from cpool.experiment.runner import Runner
from cpool.experiment.trials import trial_stream
from cpool.learner import Learner
from cpool.report.loading import load_results, notes_of
from cpool.seeding import seeded
from tests.experiment.tiny import write_experiment

TEXT = """
seeds = [3, 4]
[backbone]
name = "{backbone}"
[stream]
name = "split_digits"
tasks = 4
train_per_class = 20
test_per_class = 5
[train]
epochs = 6
batch_size = 8
[search]
budget = 3
validation = 0.3
train_per_class = 12
validation_per_class = 3
first_tasks = 2
[[method]]
name = "linear_head"
[method.search]
"train.lr" = [1e-9, 0.1, 0.03]
[[method]]
name = "ncm"
[[method]]
name = "ranpac"
projection = 20
[method.search]
projection = [20, 30]
"""


@pytest.fixture
def make(tmp_path, tiny_backbone):
    def make(*sets: str, out="out", change=("", ""), **options) -> Runner:
        file = write_experiment(tmp_path / "x.toml", tiny_backbone, TEXT.replace(*change))
        return Runner(read_experiment(file, sets), RunFolder(tmp_path / out), **options)

    return make


def run(runner: Runner, trials: list | None = None) -> dict:
    seen = [] if trials is None else trials
    return runner.run(lambda job, record: None, lambda trial, record: seen.append(record))


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_trials_see_the_training_data_only(make):
    runner = make()
    stream, whole = runner.search.stream, open_stream(runner.experiment, 0)
    trained = {i for task in whole for i in [*task.train.ids, *task.validation.ids]}
    tested = {i for task in whole for i in task.test.ids}
    seen = {i for task in stream for i in [*task.train.ids, *task.test.ids]}
    assert seen <= trained
    assert not seen & tested
    assert all(not len(task.validation) for task in stream)


def test_the_stream_of_the_trials_is_as_small_as_asked(make):
    runner = make()
    stream, whole = runner.search.stream, open_stream(runner.experiment, 0)
    assert len(stream) == 2
    for small, large in zip(stream, whole, strict=False):
        names = [stream.class_names[label] for label in small.classes]
        assert names == [whole.class_names[label] for label in large.classes]
        assert np.bincount(small.train.y)[list(small.classes)].tolist() == [12] * len(small.classes)
        assert np.bincount(small.test.y)[list(small.classes)].tolist() == [3] * len(small.classes)
        truth = dict(zip(large.train.ids, large.train.y, strict=True))
        truth |= dict(zip(large.validation.ids, large.validation.y, strict=True))
        for split in (small.train, small.test):
            for i, y in zip(split.ids, split.y, strict=True):
                assert stream.class_names[y] == whole.class_names[truth[i]]
    assert sorted(stream.class_order) == list(range(6))


def test_the_draw_depends_on_the_seed_of_the_search_alone(make):
    experiment = make().experiment

    def ids(seed: int) -> list[list[int]]:
        plan = SearchPlan(budget=1, seed=seed, train_per_class=5)
        fixed = {**experiment.stream, "seed": 0}
        from dataclasses import replace

        return [t.train.ids.tolist() for t in trial_stream(replace(experiment, stream=fixed), plan)]

    assert ids(0) == ids(0) != ids(1)


def test_the_best_is_run_with_every_seed_and_all_is_recorded(make):
    runner, trials = make(), []
    results = run(runner, trials)
    kept = load(runner.folder.search)["trials"]
    assert kept == trials
    assert [(t["label"], t["settings"]) for t in trials] == [
        ("linear_head", {"train.lr": 1e-9}),
        ("linear_head", {"train.lr": 0.1}),
        ("linear_head", {"train.lr": 0.03}),
        ("ranpac", {"projection": 20}),
        ("ranpac", {"projection": 30}),
    ]
    for label in ("linear_head", "ranpac"):
        own = [t for t in trials if t["label"] == label]
        top = max(t["accuracy"] for t in own)
        best = next(t for t in own if t["accuracy"] == top)
        runs = [r for r in results["runs"] if r["label"] == label]
        assert [r["seed"] for r in runs] == [3, 4]
        for record in runs:
            assert record["train"] == best["train"]
            assert record["hyper_parameters"] == best["hyper_parameters"]
            assert record["search"] == {
                "trials": len(own),
                "chosen": best["settings"],
                "validation_accuracy": top,
                "seconds": sum(t["seconds"] for t in own),
            }
    assert trials[0]["accuracy"] < trials[1]["accuracy"]  # else nothing is learned from a choice
    assert [r["search"] for r in results["runs"] if r["label"] == "ncm"] == [None, None]
    total = {k: results["search"][k] for k in ("budget", "trials", "first_tasks", "validation")}
    assert total == {"budget": 3, "trials": 5, "first_tasks": 2, "validation": 0.3}
    note = notes_of(load_results(runner.folder.results))[0]
    assert "at most 3 trials a method, 5 in all" in note
    assert "12 training samples a class of the first 2 tasks" in note


def test_a_trial_is_what_the_library_gives_for_the_same_data(make):
    runner, trials = make(), []
    run(runner, trials)
    entry, stream = runner.experiment.methods[0], runner.search.stream
    for candidate, trial in zip(entry.candidates, trials, strict=False):
        with seeded(0, "build"):
            model = candidate.method.build(runner.backbone)
        matrix = Learner(model, candidate.train, seed=0, device="cpu").run(stream)
        assert trial["accuracies"] == pytest.approx(matrix.values[-1].tolist(), abs=0.02)
        assert trial["accuracy"] == pytest.approx(np.mean(trial["accuracies"]))


def test_runs_after_a_search_are_those_of_a_file_with_the_chosen_settings(make, tmp_path):
    first = run(make(out="a"))
    again = make(out="b")
    again = Runner(read_experiment(tmp_path / "a" / "config.toml"), RunFolder(tmp_path / "b"))
    trials = []
    second = run(again, trials)
    assert trials == []
    for before, after in zip(first["runs"], second["runs"], strict=True):
        assert before["accuracy_matrix"] == after["accuracy_matrix"]
        assert (before["search"] or {}).get("chosen") == (after["search"] or {}).get("chosen")
    assert second["runs"][0]["search"]["trials"] == 0
    assert second["runs"][0]["search"]["seconds"] is None


def test_an_interrupted_search_goes_on_and_ends_the_same(make):
    def stop(trial, record):
        if trial.number == 2:
            raise KeyboardInterrupt

    runner = make(out="a")
    with pytest.raises(KeyboardInterrupt):
        runner.run(lambda job, record: None, stop)
    assert len(load(runner.folder.search)["trials"]) == 2
    trials = []
    resumed = run(make(out="a", resume=True), trials)
    assert next(t["settings"] for t in trials) == {"train.lr": 0.03}
    assert len(trials) == 3
    whole = run(make(out="b"))
    assert [r["accuracy_matrix"] for r in resumed["runs"]] == [
        r["accuracy_matrix"] for r in whole["runs"]
    ]
    scores = [[t["accuracy"] for t in load(make(out=o, resume=True).folder.search)["trials"]]
              for o in ("a", "b")]  # fmt: skip
    assert scores[0] == scores[1]


def test_a_search_is_done_once_and_shared(make, tmp_path):
    first = make(out="search")
    first.tune(lambda trial, record: None)
    assert not first.folder.results.exists()
    trials = []
    for seed in (3, 4):
        run(make(f"seeds=[{seed}]", out=f"s{seed}", trials_from=first.folder.path), trials)
        assert load(tmp_path / f"s{seed}" / "search.json") == load(first.folder.search)
    assert trials == []
    assert (tmp_path / "s3" / "config.toml").read_text().count("[method.chosen]") == 2


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ("search.validation=0.2", "search"),
        ("search.seed=1", "search"),
        ("search.first_tasks=1", "search"),
        ("stream.seed=1", "stream"),
        ("backbone.pooling=mean", "backbone"),
    ],
)
def test_trials_of_another_search_are_not_taken_over(make, change, differs):
    first = make(out="a")
    first.tune(lambda trial, record: None)
    with pytest.raises(ConfigError, match=f"these differ: .*{differs}"):
        make(change, out="b", trials_from=first.folder.search)
    with pytest.raises(CheckpointError):
        make(out="c", trials_from=first.folder.config)


@pytest.mark.parametrize("what", ["version", "code"])
def test_trials_of_other_code_are_refused_with_a_remedy(make, monkeypatch, what):
    first = make(out="a")
    first.tune(lambda trial, record: None)
    assert load(first.folder.search)["code"] == source_digest()
    name = {"version": "__version__", "code": "source_digest"}[what]
    monkeypatch.setattr(
        f"cpool.experiment.search.{name}", {"version": "9.9"}.get(what, lambda: "x")
    )
    remedy = r"Delete search\.json or name another folder"
    for options in ({"out": "a", "resume": True}, {"out": "b", "trials_from": first.folder.path}):
        with pytest.raises(ConfigError, match=rf"these differ: {what}.*{remedy}"):
            make(**options)
    monkeypatch.undo()
    assert make(out="a", resume=True).search.todo == []
    first.folder.search.unlink()
    monkeypatch.setattr(
        f"cpool.experiment.search.{name}", {"version": "9.9"}.get(what, lambda: "x")
    )
    assert len(make(out="a", resume=True).search.todo) == 5


def test_the_digest_of_the_code_sees_every_byte_and_name(tmp_path):
    def digest(**files: str) -> str:
        source_digest.cache_clear()
        folder = tmp_path / "package"
        for name, text in files.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "x.py").write_text(text, encoding="utf-8")
        found = source_digest(folder)
        shutil.rmtree(folder)
        return found

    known = digest(a="1", b="2")
    assert known == digest(b="2", a="1")
    assert len({known, digest(a="1"), digest(a="1", b="3"), digest(a="2", b="1"),
                digest(a="1", c="2"), digest(a="", b="12")}) == 6  # fmt: skip
    assert known == digest(a="1", b="2", cli="3") != digest(a="1", b="2", clips="3")


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_the_digest_leaves_out_is_used_by_nothing_that_it_holds(name):
    assert (PACKAGE / name / "__init__.py").is_file()
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).parts[0]
        if place not in {*OUTSIDE, "__main__.py"}:
            said = path.read_text(encoding="utf-8")
            assert not re.search(rf"^\s*(from|import) cpool\.{name}\b", said, re.M), path
            assert not re.search(rf"^\s*from cpool import .*\b{name}\b", said, re.M), path


def test_a_row_that_was_changed_is_tried_anew(make):
    first = make(out="a")
    first.tune(lambda trial, record: None)
    second = make("method.linear_head.train.epochs=1", out="b", trials_from=first.folder.search)
    assert {trial.entry.label for trial in second.search.todo} == {"linear_head"}


def test_ties_go_to_the_first(make):
    change = ('"train.lr" = [1e-9, 0.1, 0.03]', '"train.lr" = [1e-9, 1e-10, 1e-11]')
    runner, trials = make(change=change), []
    runner.tune(lambda trial, record: trials.append(record))
    assert trials[0]["accuracy"] == trials[1]["accuracy"] == trials[2]["accuracy"]
    assert runner.search.record(runner.experiment.methods[0])["chosen"] == {"train.lr": 1e-9}


def test_a_trial_that_fails_loses_and_a_row_where_all_fail_is_an_error(make, monkeypatch):
    real = Learner.fit_task

    def fit_task(self, data, name=None):
        if self.train.lr in failing:
            raise DataError(expected="a finite loss", got="inf", remedy="Lower lr.")
        real(self, data, name)

    monkeypatch.setattr(Learner, "fit_task", fit_task)
    failing = {0.1}
    runner, trials = make(out="a"), []
    runner.tune(lambda trial, record: trials.append(record))
    assert "finite loss" in trials[1]["error"]
    assert (trials[1]["accuracy"], trials[1]["accuracies"]) == (None, None)
    chosen = runner.search.record(runner.experiment.methods[0])
    best = max((t for t in trials[:3] if t["error"] is None), key=lambda t: t["accuracy"])
    assert (chosen["chosen"], chosen["trials"]) == (best["settings"], 3)
    failing = {0.1, 0.03, 1e-9}
    with pytest.raises(ConfigError, match=r"'linear_head' that ends.*finite loss"):
        make(out="b").tune(lambda trial, record: None)


def test_what_cannot_work_is_refused_before_any_trial(make, tmp_path):
    with pytest.raises(ConfigError, match=r"search\.first_tasks up to 4"):
        make("search.first_tasks=6")
    with pytest.raises(ConfigError, match="projection"):
        make(change=("[20, 30]", "[20, 0]"))
    assert not (tmp_path / "out").exists()


def test_a_method_that_must_be_told_the_task_is_refused_where_none_is_told(make, monkeypatch):
    from cpool.methods import METHODS

    monkeypatch.setattr(METHODS["linear_head"], "needs_task", True, raising=False)
    with pytest.raises(ConfigError, match=r"'linear_head'.*class-incremental.*scenario = \"task\""):
        make()
    make("stream.scenario=task")
