"""cpool run --dry-run: shows whether a file starts, and leaves nothing that looks like a result."""

import json
import tomllib
from dataclasses import replace

import numpy as np
import pytest

from cpool.backbones.small import small_backbone
from cpool.backbones.small_config import small_config
from cpool.errors import BackboneError, DataError, UnknownNameError
from cpool.experiment.config import Experiment
from cpool.experiment.parts import open_stream
from cpool.experiment.reading import read_experiment
from cpool.experiment.stand_ins import assumed, stand_in_options
from cpool.report import load_results
from cpool.streams import load_stream

VISION = """
seeds = [3, 4]
[backbone]
name = "google/vit-base-patch16-224-in21k"
[stream]
name = "image_folder"
path = "no/such/folder"
tasks = 2
[[method]]
name = "l2p"
[[method]]
name = "ncm"
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "vision.toml"
    path.write_text(VISION, encoding="utf-8")
    return path


@pytest.fixture
def done(file, cpool):
    result = cpool("run", file, "--dry-run", "--out", "out")
    assert result.exit_code == 0, result.output
    return result


def test_it_says_that_figures_mean_nothing_and_writes_all_outputs(done, tmp_path):
    assert done.stdout.startswith("DRY RUN: ") and "mean nothing" in done.stdout.splitlines()[0]
    assert "no/such/folder is not there" in done.stdout
    assert "starts: l2p" in done.stdout and "cpool run" in done.stdout.splitlines()[-1]
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["dry_run"] is True and [r["seed"] for r in results["runs"]] == [3, 3]
    assert "dry run on random weights" in (out / "report.html").read_text(encoding="utf-8")
    assert (out / "checkpoints" / "l2p" / "seed3" / "manifest.json").is_file()
    config = tomllib.loads((out / "config.toml").read_text(encoding="utf-8"))
    assert config["dry_run"] is True and config["stream"]["path"] == "no/such/folder"


def test_its_results_are_refused_where_figures_count(done, cpool):
    result = cpool("compare", "out", "out")
    assert result.exit_code == 2
    assert "got those of a dry run" in result.stderr
    with pytest.raises(DataError, match="without --dry-run"):
        load_results("out")
    assert load_results("out", dry=True)["dry_run"]
    again = cpool("run", "out/config.toml")
    assert again.exit_code == 2 and "dry_run" in again.stderr
    real = cpool("run", "vision.toml", "--out", "out", "--resume", "--dry-run")
    assert real.exit_code == 2 and "--resume" in real.stderr


def test_without_out_the_current_folder_stays_empty(file, cpool, tmp_path):
    result = cpool("run", file, "--dry-run", "--quiet", "--set", "stream.tasks=1")
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["vision.toml"]
    assert result.stdout.strip().endswith("results.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("method.l2p.top_q=3", "Did you mean 'method.l2p.top_k'?"),
        ("method.l2p.top_k=11", "top_k"),
        ("method.l2p.pull=-1.0", "pull"),
        ("stream.tasks=9", "tasks from 1 to"),
        ("stream.classes=9", "stream.classes"),
        ("backbone.name=some/thing", "known without the hub"),
        ("backbone.name=google-t5/t5-large", "a stream of texts"),
        ("backbone.layers=[13]", "13"),
    ],
)
def test_faults_are_found_and_nothing_is_written(file, cpool, tmp_path, change, said):
    if change == "stream.tasks=9":  # more tasks than the named classes
        change = 'stream.class_order=["a", "b"]'
        file.write_text(VISION.replace("tasks = 2", "tasks = 3"), encoding="utf-8")
    result = cpool("run", file, "--dry-run", "--out", "out", "--set", change)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["vision.toml"]


def test_a_method_that_does_not_fit_the_backbone_is_found(file, cpool):
    file.write_text(
        VISION.replace("google/vit-base-patch16-224-in21k", "google-t5/t5-large")
        .replace('name = "image_folder"\npath = "no/such/folder"', 'name = "banking77"')
        .replace('name = "l2p"', 'name = "dualprompt"'),
        encoding="utf-8",
    )
    result = cpool("run", file, "--dry-run")
    assert result.exit_code == 2 and "dualprompt" in result.stderr


def test_a_layer_that_the_backbone_lacks_is_found(file, cpool):
    file.write_text(VISION.replace('"l2p"', '"coda_prompt"\nlayers = [0, 12]'), encoding="utf-8")
    result = cpool("run", file, "--dry-run")
    assert result.exit_code == 2 and "12" in result.stderr


def test_candidates_of_a_grid_are_all_built(file, cpool):
    file.write_text(
        VISION.replace(
            'name = "l2p"', 'name = "l2p"\n[method.search]\ntop_k = [2, 5]\npool_size = [10, 4]'
        )
        + "[search]\nbudget = 4\n",
        encoding="utf-8",
    )
    result = cpool("run", file, "--dry-run")
    assert result.exit_code == 2
    assert "'top_k': 5, 'pool_size': 4" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"name": "banking77", "classes": 12, "tasks": 3},
        {"name": "clinc150"},
        {"name": "conflicting_intents"},
        {"name": "five_datasets"},
        {"name": "omniglot50", "tasks": 3},
        {"name": "rotated_digits", "tasks": 2},
        {"name": "snips"},
        {"name": "split_cifar100_small", "tasks": 20},
        {"name": "split_fashion_mnist"},
        {"name": "few_shot", "of": "split_fashion_mnist", "base_classes": 4, "ways": 3},
        {"name": "online", "of": "blurry", "options": {"of": "banking77"}},
        {"name": "blurry", "of": "image_folder", "options": {"path": "nowhere"}, "tasks": 4},
        {"name": "image_domains", "path": "nowhere", "tasks": 3},
        {"name": "image_domains", "path": "nowhere", "domains": ["b", "a"], "test_domains": ["c"]},
        {"name": "online", "of": "image_domains", "options": {"path": "nowhere"}},
        {"name": "text_file", "path": "no.csv", "scenario": "domain", "tasks": 3},
        {"name": "text_file", "path": "no.csv", "task": "topic", "label": "intent"},
    ],
    ids=lambda options: "-".join(str(options[k]) for k in ("name", "of") if k in options),
)
def test_stand_ins_are_read_by_the_builder_itself(options, tmp_path, monkeypatch):
    monkeypatch.delenv("CPOOL_DATA", raising=False)
    changed = stand_in_options(options, tmp_path)
    stream = load_stream(changed.pop("name"), **changed)
    if isinstance(options.get("tasks"), int):
        assert len(stream) == options["tasks"]
    assert all(len(task.train) and len(task.test) for task in stream)
    again = stand_in_options(options, tmp_path)
    assert load_stream(again.pop("name"), **again).fingerprint == stream.fingerprint


def test_class_folders_that_are_there_are_counted(tmp_path):
    for name in ("ant", "bee", "cow"):
        (tmp_path / "own" / "train" / name).mkdir(parents=True)
    options = {"name": "image_folder", "path": str(tmp_path / "own"), "tasks": 3}
    changed = stand_in_options(options, tmp_path / "made")
    assert load_stream(changed.pop("name"), **changed).class_names == ("ant", "bee", "cow")


def test_domain_folders_that_are_there_are_counted(tmp_path):
    for name in ("ant", "bee", "cow"):
        for domain in ("ink", "oil", ".cache"):
            (tmp_path / "own" / domain / "train" / name).mkdir(parents=True)
    options = {"name": "image_domains", "path": str(tmp_path / "own")}
    changed = stand_in_options(options, tmp_path / "made")
    stream = load_stream(changed.pop("name"), **changed)
    assert stream.class_names == ("ant", "bee", "cow")
    assert [task.name for task in stream] == ["ink", "oil"]
    assert not np.array_equal(stream[0].train.x[0], stream[1].train.x[0])
    wrong = stand_in_options({**options, "domains": ["inc"]}, tmp_path / "made")
    with pytest.raises(UnknownNameError, match="Did you mean 'ink'"):
        load_stream(wrong.pop("name"), **wrong)


def test_an_own_text_file_is_read_itself(tmp_path):
    file = tmp_path / "own.csv"
    rows = "".join(f"words {i},{'ab'[i % 2]}\n" for i in range(40))
    file.write_text(f"text,label\n{rows}", encoding="utf-8")
    changed = stand_in_options({"name": "text_file", "path": str(file), "tasks": 2}, tmp_path)
    stream = load_stream(changed.pop("name"), **changed)
    assert stream.class_names == ("a", "b") and len(stream[0].train) <= 5


def test_a_small_backbone_knows_its_depth_and_every_word():
    made = small_backbone("openai-community/gpt2", texts=["a label"], depth=3)
    assert (made.family, made.num_layers, made.hidden_size) == ("gpt2", 3, 32)
    ids = made.processor("wörd 文", add_special_tokens=False)["input_ids"]
    assert made.processor.decode(ids) == "wörd 文"
    image = small_backbone("facebook/dinov2-base").prepare(np.zeros((1, 5, 5, 3), np.uint8))
    assert image["pixel_values"].shape == (1, 3, 28, 28)


def test_what_is_assumed_is_said(file):
    experiment = read_experiment(file, ["backbone.name=someone/vit-odd"])
    assert isinstance(experiment, Experiment)
    said = " ".join(assumed(experiment))
    assert "someone/vit-odd are assumed" in said and "4 a task" in said
    for change, many in (
        ({}, "its classes are assumed to be 4, and its domains 2"),
        ({"domains": ["a", "b", "c"]}, "its classes are assumed to be 4."),
        ({"domains": ["a"], "path": "no/core50"}, "its classes are assumed to be 50."),
    ):
        stream = {**experiment.stream, "name": "image_domains", **change}
        assert many in assumed(replace(experiment, stream=stream))[-1]
    online = {"name": "online", "of": "image_domains", "options": {"path": "no", "domains": ["a"]}}
    assert assumed(replace(experiment, stream=online))[-1].endswith("assumed to be 4.")
    assert small_config("google-t5/t5-large").config.num_layers == 24
    with pytest.raises(BackboneError, match="Name a folder"):
        small_config("someone/thing")


def test_a_real_experiment_is_not_touched(file):
    experiment = read_experiment(file)
    assert not experiment.dry_run and "dry_run" not in experiment.resolved()
    with pytest.raises(DataError, match="no folder"):
        open_stream(experiment, 0)
