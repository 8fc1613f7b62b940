"""Drawn trials: ranges are checked, draws repeat, a stopped search goes on the same."""

import json
import sys
import tomllib

import pytest

from cpool.errors import ConfigError, MissingDependencyError, UnknownNameError
from cpool.experiment.folder import RunFolder
from cpool.experiment.ranges import Range
from cpool.experiment.reading import read_experiment
from cpool.experiment.runner import Runner
from cpool.experiment.sampler import draw
from cpool.report.protocol import differences
from tests.experiment.tiny import write_experiment

TEXT = """
seeds = [3]
[backbone]
name = "{backbone}"
[stream]
name = "split_digits"
tasks = 4
train_per_class = 12
test_per_class = 4
[train]
epochs = 2
batch_size = 8
[search]
sampler = "optuna"
budget = 6
trials = 5
validation = 0.3
first_tasks = 2
[[method]]
name = "linear_head"
[method.search]
"train.lr" = {low = 1e-4, high = 1.0, log = true}
"train.epochs" = {low = 1, high = 3}
"train.optimizer" = ["adam", "sgd"]
[[method]]
name = "ncm"
"""
LR = '"train.lr" = {low = 1e-4, high = 1.0, log = true}'


@pytest.fixture
def make(tmp_path, tiny_backbone):
    folders = []

    def make(*sets: str, out="out", change=("", ""), **options) -> Runner:
        file = write_experiment(tmp_path / "x.toml", tiny_backbone, TEXT.replace(*change))
        folders.append(RunFolder(tmp_path / out))
        return Runner(read_experiment(file, sets), folders[-1], **options)

    yield make
    for folder in folders:
        folder.close()


@pytest.fixture
def read(tmp_path):
    def read(*change: str):
        (tmp_path / "x.toml").write_text(TEXT.replace(*change), encoding="utf-8")
        return read_experiment(tmp_path / "x.toml")

    return read


def tune(runner: Runner) -> list[dict]:
    runner.tune(lambda trial, record: None)
    kept = json.loads(runner.folder.search.read_text(encoding="utf-8"))["trials"]
    return [{k: v for k, v in trial.items() if k != "seconds"} for trial in kept]


def test_the_same_seed_draws_the_same_trials_within_the_ranges(make):
    first, again, other = make(out="a"), make(out="b"), make("search.seed=1", out="c")
    trials = tune(first)
    assert trials == tune(again)
    assert [t["settings"] for t in trials] != [t["settings"] for t in tune(other)]
    assert [t["number"] for t in trials] == [1, 2, 3, 4, 5]
    for trial in trials:
        settings = trial["settings"]
        assert 1e-4 <= settings["train.lr"] <= 1.0
        assert settings["train.epochs"] in (1, 2, 3)
        assert settings["train.optimizer"] in ("adam", "sgd")
        assert {f"train.{k}": trial["train"][k] for k in ("lr", "epochs", "optimizer")} == settings
    best = max(trials, key=lambda trial: trial["accuracy"])
    entry = first.experiment.methods[0].final
    assert entry.train.lr == best["settings"]["train.lr"]


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(make):
    whole = tune(make(out="whole"))
    stopped = make(out="parts")

    def stop(trial, record):
        if trial.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.tune(stop)
    stopped.folder.close()
    again = make(out="parts", resume=True)
    assert [trial.number for trial in again.search.todo] == [4, 5]
    assert tune(again) == whole


def test_trials_are_taken_over_by_the_same_ranges_only(make):
    first = make(out="a")
    tune(first)
    assert make(out="b", trials_from=first.folder.search).search.todo == []
    wider = make(out="c", change=("low = 1, high = 3", "low = 1, high = 4"),
                 trials_from=first.folder.search)  # fmt: skip
    assert len(wider.search.todo) == 5
    beside = make("train.batch_size=4", out="d", trials_from=first.folder.search)
    assert len(beside.search.todo) == 5


def test_what_is_drawn_twice_is_trained_once(make, monkeypatch):
    lists = LR, '"train.lr" = [0.01]'
    runner = make(change=lists)
    drawn = iter([0.1, 0.2, 0.1, 0.2, 0.3])
    monkeypatch.setattr(
        "cpool.experiment.search.next_point",
        lambda entry, done, seed: {
            "train.lr": 0.01,
            "train.epochs": round(10 * next(drawn)),
            "train.optimizer": "adam",
        },
    )
    trained = []
    monkeypatch.setattr(
        "cpool.experiment.search.run_trial",
        lambda learner, stream: trained.append(learner.train.epochs) or [0.5, 0.25],
    )
    trials = tune(runner)
    assert trained == [1, 2, 3]
    assert [t["number"] for t in trials] == [1, 2, 3, 4, 5]
    assert trials[2]["accuracies"] == trials[0]["accuracies"]


def test_a_point_that_the_method_refuses_is_a_trial_that_failed(make, monkeypatch):
    momentum = (
        'name = "linear_head"\n[method.search]\n' + LR,
        'name = "linear_head"\n[method.search]\n"train.momentum" = {low = 0.0, high = 0.9}',
    )
    runner = make(change=momentum)
    assert len(runner.search.todo) == 5
    keep = {"train.epochs": 1, "train.optimizer": "adam"}
    points = iter([{"train.momentum": k, **keep} for k in (1.5, 0.0, 0.1, 0.2, 0.3)])
    monkeypatch.setattr(
        "cpool.experiment.search.next_point", lambda entry, done, seed: next(points)
    )
    trials = tune(runner)
    assert "momentum from 0 to below 1" in trials[0]["error"]
    assert (trials[0]["accuracy"], trials[0]["train"]) == (None, None)
    assert all(trial["error"] is None for trial in trials[1:])
    runner.folder.close()
    again = make(change=momentum, resume=True)
    assert again.search.todo == []


def test_results_say_what_was_searched_and_how(make):
    runner = make()
    results = runner.run(lambda job, record: None)
    search = results["search"]
    assert (search["sampler"], search["trials_each"], search["trials"]) == ("optuna", 5, 5)
    assert results["runs"][0]["search"]["trials"] == 5
    assert results["runs"][1]["search"] is None
    grid = {**results, "search": {**search}}
    del grid["search"]["sampler"], grid["search"]["trials_each"]
    assert [found.field for found in differences([results, grid])] == ["search"]


def test_what_was_chosen_is_a_ready_experiment(make, tmp_path):
    runner = make()
    tune(runner)
    chosen = read_experiment(runner.folder.chosen)
    assert (chosen.search, chosen.name) == (None, "x-chosen")
    final = [entry.final for entry in runner.experiment.methods]
    assert [(e.method, e.train) for e in chosen.methods] == [(e.method, e.train) for e in final]
    again = Runner(chosen, RunFolder(tmp_path / "again"))
    assert again.search is None
    stored = read_experiment(runner.folder.config)
    assert stored.methods[0].final.train == final[0].train
    assert stored.resolved() == runner.experiment.resolved()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{low = 1e-4, hihg = 1.0}", "a range of low, high and log.*'hihg'"),
        ("{low = 1e-4}", "numbers as low and high.*high = 'nothing'"),
        ('{low = "a", high = 1}', "numbers as low and high.*low = 'a'"),
        ("{low = 1.0, high = 0.1}", "low below high"),
        ("{low = 0.0, high = 0.1, log = true}", "low above 0 where log = true"),
        ("{low = 0.1, high = 0.2, log = 1}", "true or false as log"),
        ("{low = -1.0, high = 0.2}", "lr above 0"),
    ],
)
def test_bad_ranges_are_refused_with_the_key_and_the_file(read, change, message):
    with pytest.raises(ConfigError, match=rf"{message}.*x\.toml"):
        read(LR, f'"train.lr" = {change}')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("trials = 5", "trials = 7"), r"search\.trials up to 6"),
        (('sampler = "optuna"', ""), r"only beside sampler"),
        (('sampler = "optuna"', 'sampler = "random"'), r"'grid' or 'optuna'"),
        (('sampler = "optuna"\nbudget = 6\ntrials = 5', "budget = 6"), r"a list of values"),
        (("low = 1, high = 3", "low = 1.5, high = 3"), r"train\.epochs.* a whole number"),
    ],
)
def test_samplers_and_ranges_have_to_fit(read, change, message):
    with pytest.raises(ConfigError, match=message):
        read(*change)


def test_without_trials_the_budget_is_used_up(read):
    assert read("trials = 5\n", "").methods[0].trials == 6


def test_settings_called_low_and_high_are_no_range(read):
    text = (
        '[[method]]\nname = "ovor"\n[method.search]\nlow = [-15.0, -10.0]\nhigh = [-3.0]\n'
        '[[method]]\nname = "ncm"'
    )
    grid = read('[[method]]\nname = "ncm"', text).methods[1].grid
    assert grid == {"low": (-15.0, -10.0), "high": (-3.0,)}


def test_without_optuna_the_extra_is_named_before_anything_is_written(make, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match=r"continual-prompt-pool\[search\]"):
        make()
    assert not (tmp_path / "out").exists()


def test_the_sampler_learns_from_what_was_tried():
    values = {"x": Range(0.0, 1.0), "kind": ((0, 1), (2,))}
    done: list = []
    for _ in range(30):
        point = draw(values, done, 30, 0, "row")
        done.append((point, 1 - abs(point["x"] - 0.7) - 0.5 * (point["kind"] == (2,))))
    early, late = ([abs(p["x"] - 0.7) for p, _ in part] for part in (done[:10], done[-10:]))
    assert sum(late) < sum(early) / 2
    assert sum(point["kind"] == (0, 1) for point, _ in done[-10:]) >= 7
    failed = [(point, None if point["x"] > 0.5 else 0.9) for point, _ in done]
    assert draw(values, failed, 40, 0, "row")["x"] <= 0.6


def test_no_point_is_tried_twice_while_there_are_others():
    values = {"lr": (0.1, 0.2, [0.3]), "epochs": (1, 2)}
    done = []
    for _ in range(6):
        done.append((draw(values, done, 6, 0, "l2p"), 0.5))
    found = [tuple(map(str, point.values())) for point, _ in done]
    assert len(set(found)) == 6
    assert draw(values, done, 7, 0, "l2p") in [point for point, _ in done]  # there is no other
    whole = {"length": Range(2, 5)}
    done = []
    for _ in range(4):
        done.append((draw(whole, done, 4, 0, "l2p"), 0.5))
    assert sorted(point["length"] for point, _ in done) == [2, 3, 4, 5]


def test_trackers_of_an_experiment(make, tmp_path):
    plain = (
        '[search]\nsampler = "optuna"\nbudget = 6\ntrials = 5\nvalidation = 0.3\nfirst_tasks = 2\n',
        "",
    )
    runner = make('trackers=["tensorboard"]', 'search={sampler="optuna",budget=1,validation=0.3}')
    runner.run(lambda job, record: None)
    runs = sorted(p.name for p in (tmp_path / "out" / "tracking" / "tensorboard").iterdir())
    assert runs == ["linear_head-seed3", "ncm-seed3"]  # and none of a trial
    config = tomllib.loads(runner.folder.config.read_text(encoding="utf-8"))
    assert config["trackers"] == ["tensorboard"]
    runner.folder.close()
    without = make('search={sampler="optuna",budget=1,validation=0.3}', resume=True)
    assert without.todo == []  # what is tracked changes nothing of a run
    with pytest.raises(UnknownNameError, match=r"a known tracker.*'tensorboard'"):
        make('trackers=["tensorbord"]', out="other", change=plain)
