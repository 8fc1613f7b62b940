"""cpool run: what it prints, what it writes, and how it refuses."""

import json
import re
import tomllib

import pytest

from cpool.cli.summary import suggestions
from cpool.experiment.folder import RunFolder
from cpool.experiment.reading import read_experiment
from cpool.metrics import AccuracyMatrix

TOP = """
    schema name description version scenario evaluated_on complete features_seconds backbone
    stream train search not_run runs
"""
RUN = """
    label method prompts joint seed hyper_parameters train class_order accuracy_matrix test_sizes
    average_accuracy average_accuracy_weighted average_incremental_accuracy forgetting
    backward_transfer forward_transfer learning_accuracy trainable_parameters slots evictions
    bytes_per_task total_bytes costs train_seconds predict_seconds peak_memory_bytes
    flops_per_sample
    threads frozen_seconds_per_sample search
"""
BACKBONE = """
    name kind family fingerprint pooling normalize layers hidden_size query_size parameters dtype
    bytes transform
"""
STREAM = """
    name scenario modality arrangement tasks seed fingerprint task_names task_classes class_names
    train_sizes validation_sizes test_sizes options
"""
ENVIRONMENT = """
    python platform cpu cores threads cpool torch transformers numpy sklearn accelerate device gpu
    started seconds
"""


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_keys_of_results_are_a_contract(finished):
    results = load(finished / "results.json")
    assert list(results) == TOP.split()
    assert set(results["backbone"]) == set(BACKBONE.split())
    assert set(results["stream"]) == set(STREAM.split())
    for record in results["runs"]:
        assert list(record) == RUN.split()
    assert results["schema"] == 1
    assert set(load(finished / "environment.json")) == set(ENVIRONMENT.split())


def test_accuracies_are_fractions_and_nothing_unmeasured_is_zero(finished):
    for record in load(finished / "results.json")["runs"]:
        matrix = AccuracyMatrix.from_json(record)
        assert record["accuracy_matrix"][0][1] is None
        assert 0 <= record["average_accuracy"] <= 1
        assert record["average_accuracy"] == matrix.summary()["average_accuracy"]
        assert record["forgetting"] == matrix.summary()["forgetting"]
        assert record["forward_transfer"] is None
        assert record["test_sizes"] == matrix.sizes.tolist()


def test_the_run_directory(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "results.json", "config.toml", "environment.json", "diagnostics", "checkpoints",
        "report.html",
    }  # fmt: skip
    assert {p.name for p in (finished / "diagnostics").iterdir()} == {
        "l2p-seed0.json",
        "l2p-seed1.json",
    }
    for label in ("ncm", "l2p"):
        assert {p.name for p in (finished / "checkpoints" / label).iterdir()} == {"seed0", "seed1"}
    config = tomllib.loads((finished / "config.toml").read_text(encoding="utf-8"))
    assert config["method"][1]["train"]["epochs"] == 1


def test_what_it_says(finished):
    lines = (finished.parent / "stdout.txt").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"cpool \S+ · small", lines[0])
    assert [line.split()[0] for line in lines[1:6]] == [
        "backbone", "stream", "methods", "seeds", "out",
    ]  # fmt: skip
    assert "2 tasks × 5 classes, class-incremental; 1,292 train, 360 test" in lines[2]
    runs = [line for line in lines if line.startswith("[")]
    assert len(runs) == 4
    pattern = r"\[1/4\] ncm  seed 0  accuracy [\d. ]+ %  forgetting [-\d. ]+ +[\d.]+ s"
    assert re.fullmatch(pattern, runs[0])
    after = lines[lines.index("Next:") + 1 :]
    assert [line.split()[:2] for line in after] == [
        ["cpool", "inspect"], ["cpool", "run"], ["cpool", "compare"],
    ]  # fmt: skip
    assert any(line.startswith("Results") and "results.json" in line for line in lines)


def test_it_suggests_no_epochs_where_nothing_trains(tmp_path):
    file = tmp_path / "x.toml"
    head = '[stream]\nname = "split_digits"\n'
    rows = {name: f'[[method]]\nname = "{name}"\n' for name in ("ncm", "linear_head", "l2p")}
    for names, change in [
        (["ncm"], "--seeds 1 --out r-again"),
        (["ncm", "linear_head"], "--set method.linear_head.train.epochs=20 --out r-longer"),
        (["ncm", "linear_head", "l2p"], "--set method.l2p.train.epochs=10 --out r-longer"),
    ]:
        file.write_text(head + "".join(rows[name] for name in names), encoding="utf-8")
        said = suggestions(file, RunFolder("r"), read_experiment(file))
        assert said[1] == f"cpool run {file} {change}"


def test_the_default_folder_and_seeds_and_set(cpool, small):
    done = cpool("run", small, "--seeds", "3", "--set", "method.l2p.top_k=1", "--set", "name=other")
    assert done.exit_code == 0, done.output
    results = load(small.parent / "runs" / "other" / "results.json")
    assert {record["seed"] for record in results["runs"]} == {3}
    assert results["runs"][1]["hyper_parameters"]["top_k"] == 1


def test_quiet_prints_the_path_and_nothing_else(cpool, small):
    done = cpool("run", small, "--quiet", "--seeds", "0", "--set", "method.l2p.train.epochs=1")
    assert done.exit_code == 0
    assert done.stdout == "runs/small/results.json\n"


def test_resume_of_a_finished_run_only_prints_and_changes_no_result(cpool, finished):
    before = (finished / "results.json").read_bytes()
    done = cpool("run", finished.parent / "small.toml", "--out", finished, "--resume")
    assert done.exit_code == 0
    assert "(4 runs, 4 of them done)" in done.stdout
    assert "[1/4]" not in done.stdout
    assert (finished / "results.json").read_bytes() == before


def test_resume_works_on_a_new_folder(cpool, small):
    assert cpool("run", small, "--seeds", "0", "--resume", "--quiet").exit_code == 0


def test_config_toml_is_an_experiment_that_repeats_the_run(cpool, finished, tmp_path):
    out = tmp_path / "again"
    assert cpool("run", finished / "config.toml", "--out", out, "--quiet").exit_code == 0
    for first, second in zip(
        load(finished / "results.json")["runs"], load(out / "results.json")["runs"], strict=True
    ):
        assert first["accuracy_matrix"] == second["accuracy_matrix"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "train.epoch=2"], "Did you mean 'train.epochs'?"),
        (["--set", "train.epochs=true"], "train.epochs as a whole number"),
        (["--set", 'train.lr="3"'], "train.lr as a number"),
        (["--set", "method.l2p.name=l2q"], "Did you mean 'l2p'?"),
        (["--set", "stream.name=split_digit"], "Did you mean 'split_digits'?"),
        (["--set", "backbone.name=embeded"], "Did you mean 'embedded'?"),
        (["--set", "method.l2p.top_k=5"], "top-k of at most 4"),
        (["--seeds", "one"], "--seeds"),
        (["--device", "nonsense"], "a device of this machine"),
        (["--out", "/proc/nothing/here"], "can be written"),
    ],
)
def test_wrong_input_gives_one_message_status_2_and_no_files(cpool, small, words, message):
    done = cpool("run", small, *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.startswith("cpool: expected ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert not (small.parent / "runs").exists()


def test_files_that_are_missing_or_broken(cpool, small):
    small.write_text("[stream\n", encoding="utf-8")
    for file, message in ((small, "line 1, column"), ("none.toml", "No such file")):
        done = cpool("run", file)
        assert done.exit_code == 2
        assert message in done.stderr


def test_a_missing_data_set_says_where_it_is_to_be_had(cpool, small, monkeypatch):
    monkeypatch.delenv("CPOOL_DATA", raising=False)
    text = small.read_text(encoding="utf-8").replace("split_digits", "split_fashion_mnist")
    small.write_text(text.replace("tasks = 2", "tasks = 5"), encoding="utf-8")
    done = cpool("run", small)
    assert done.exit_code == 2
    assert "CPOOL_DATA" in done.stderr


def test_a_folder_with_results_is_not_touched_without_resume(cpool, finished):
    file, before = finished.parent / "small.toml", (finished / "results.json").read_bytes()
    done = cpool("run", file, "--out", finished)
    assert (done.exit_code, "Add --resume" in done.stderr) == (2, True)
    done = cpool("run", file, "--out", finished, "--resume", "--set", "method.l2p.length=3")
    assert (done.exit_code, "differ: method.l2p.length" in done.stderr) == (2, True)
    assert (finished / "results.json").read_bytes() == before


SEARCH = """
[search]
budget = 2
train_per_class = 3
[[method]]
name = "linear_head"
[method.search]
"train.lr" = [1e-9, 0.01]
[method.train]
epochs = 1
"""


def test_a_search_is_announced_shown_and_said_in_the_table(cpool, small, tmp_path):
    small.write_text(small.read_text(encoding="utf-8") + SEARCH, encoding="utf-8")
    words = ["--seeds", "0", "--set", "method.l2p.train.epochs=1"]
    done = cpool("run", small, *words)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "  search    2 trials, at most 2 a method; each 30 train" in done.stdout
    trials = [line for line in lines if line.startswith("trial ")]
    pattern = r"trial \d/2  linear_head  validation +[\d.]+ % +[\d.]+ s  train\.lr=\S+"
    assert len(trials) == 2
    assert all(re.fullmatch(pattern, line) for line in trials)
    chosen = next(line for line in lines if line.startswith("chosen"))
    best = load(tmp_path / "runs" / "small" / "results.json")["runs"][2]["search"]
    assert chosen.startswith(f"chosen  linear_head: train.lr={best['chosen']['train.lr']} (valid")
    assert "Search on validation data: at most 2 trials a method, 2 in all" in " ".join(lines)
    again = cpool("run", small, *words, "--resume")
    assert "2 trials, at most 2 a method, 2 of them done" in again.stdout
    assert "trial 1/2" not in again.stdout


def test_a_search_can_be_done_alone_and_taken_over(cpool, small, tmp_path):
    small.write_text(small.read_text(encoding="utf-8") + SEARCH, encoding="utf-8")
    done = cpool("run", small, "--search-only", "--out", "s", "--quiet")
    assert (done.exit_code, done.stdout) == (0, "s/search.json\n")
    assert not (tmp_path / "s" / "results.json").exists()
    done = cpool("run", small, "--search-from", "s", "--seeds", "1", "--out", "r")
    assert done.exit_code == 0, done.output
    assert "trial 1/2" not in done.stdout
    search = [load(tmp_path / folder / "search.json") for folder in ("s", "r")]
    assert search[0] == search[1]


@pytest.mark.parametrize("words", [["--search-only"], ["--search-from", "x"]])
def test_search_options_need_a_search(cpool, small, words):
    done = cpool("run", small, *words)
    assert (done.exit_code, "a [search] in" in done.stderr) == (2, True)


def test_faults_of_the_program_keep_their_traceback(cpool, small, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a fault")

    monkeypatch.setattr("cpool.experiment.runner.Runner.run", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        cpool("run", small)
