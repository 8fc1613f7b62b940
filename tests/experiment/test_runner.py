"""Runner: order, shared features, what is recorded, and what is checked before anything starts."""

import json

import numpy as np
import pytest

from cpool.device import make_accelerator
from cpool.errors import CheckpointError, ConfigError, CpoolError, DataError, PoolError
from cpool.experiment.folder import RunFolder
from cpool.experiment.parts import open_stream
from cpool.experiment.reading import read_experiment
from cpool.experiment.runner import Runner
from cpool.metrics import AccuracyMatrix
from tests.experiment.tiny import write_experiment

HEAD = '[backbone]\nname = "{backbone}"\n[stream]\n'
DIGITS = HEAD + 'name = "split_digits"\ntasks = 2\n'


@pytest.fixture
def make(tmp_path, tiny_backbone):
    """Return a runner of the experiment in `text`."""

    def make(text: str, *sets: str, out="out", **options) -> Runner:
        file = write_experiment(tmp_path / "x.toml", tiny_backbone, text)
        return Runner(read_experiment(file, sets), RunFolder(tmp_path / out), **options)

    return make


def run(runner: Runner) -> dict:
    return runner.run(lambda job, record: None)


def test_runs_go_seed_by_seed_and_features_are_computed_once(make, small):
    runner = Runner(read_experiment(small), RunFolder(small.parent / "out"))
    order = []
    results = runner.run(lambda job, record: order.append((job.seed, record["label"])))
    assert order == [(0, "ncm"), (0, "l2p"), (1, "ncm"), (1, "l2p")]
    # 1,437 training and 360 test images, whatever the seed holds out for validation.
    assert runner.cache.misses == 1437 + 360
    assert results["features_seconds"] > 0
    assert results["complete"]


def test_class_order_follows_the_run_seed_unless_the_stream_has_one(make):
    text = "seeds = [0, 1]\n" + DIGITS + '{}[[method]]\nname = "ncm"\n'
    free = run(make(text.replace("{}", ""), out="a"))
    fixed = run(make(text.replace("{}", "seed = 1\n"), out="b"))
    orders = [[r["class_order"] for r in results["runs"]] for results in (free, fixed)]
    assert orders[0][0] != orders[0][1]
    assert orders[1][0] == orders[1][1] == orders[0][1]
    assert (free["stream"]["seed"], fixed["stream"]["seed"]) == (None, 1)
    # Nothing is drawn in NCM, so the same order gives the same matrix.
    assert fixed["runs"][0]["accuracy_matrix"] == fixed["runs"][1]["accuracy_matrix"]
    assert fixed["runs"][1]["accuracy_matrix"] == free["runs"][1]["accuracy_matrix"]


def test_the_precision_of_the_file_is_that_of_every_learner(make, monkeypatch):
    asked = []

    def made(device, precision):
        asked.append(precision)
        return make_accelerator("cpu")  # a process has one accelerator, and other tests want it

    monkeypatch.setattr("cpool.experiment.runner.make_accelerator", made)
    text = DIGITS + '[[method]]\nname = "ncm"\n'
    runner = make('precision = "bf16"\n' + text, out="a")
    assert runner._learner(runner.experiment.methods[0], 0).accelerator is runner.accelerator
    make(text, out="b")
    make(text, 'precision="bf16"', out="c")
    assert asked == ["bf16", "no", "bf16"]


def test_joint_has_a_last_row_and_no_forgetting(make):
    text = DIGITS + '[[method]]\nname = "joint"\nof = "linear_head"\ntrain.epochs = 1\n'
    record = run(make(text))["runs"][0]
    assert record["joint"]
    assert record["accuracy_matrix"][0] == [None, None]
    assert None not in record["accuracy_matrix"][1]
    assert record["forgetting"] is None
    assert record["average_accuracy"] == pytest.approx(np.mean(record["accuracy_matrix"][1]))


def test_forward_transfer_is_measured_on_domains_only(make):
    text = HEAD + 'name = "{}"\ntasks = 2\n[[method]]\nname = "ncm"\n'
    domain = run(make(text.replace("{}", "rotated_digits"), out="a"))["runs"][0]
    classes = run(make(text.replace("{}", "split_digits"), out="b"))["runs"][0]
    assert isinstance(domain["forward_transfer"], float)
    assert all(None not in row for row in domain["accuracy_matrix"])
    assert classes["forward_transfer"] is None


def test_evaluating_on_validation_leaves_the_test_data_alone(make):
    text = 'evaluate = "validation"\n' + DIGITS + '[[method]]\nname = "ncm"\n'
    runner = make(text)
    test = open_stream(read_experiment(runner.experiment.source, ["evaluate=test"]), 0)
    assert np.array_equal(runner.stream[0].test.ids, test[0].validation.ids)
    assert run(runner)["evaluated_on"] == "validation"
    with pytest.raises(DataError, match=r"stream\.validation"):
        make(text, "stream.validation=0", out="other")


def test_costs_are_those_of_the_method(make):
    text = DIGITS + '[[method]]\nname = "ncm"\n[[method]]\nname = "l2p"\ntrain.epochs = 1\n'
    ncm, l2p = run(make(text))["runs"]
    assert (ncm["trainable_parameters"], ncm["slots"], l2p["slots"]) == (0, None, 10)
    # Ten slots of five tokens and a key each, of width 16, and a head of ten classes.
    assert l2p["trainable_parameters"] == 10 * (5 * 16 + 16) + 10 * (16 + 1)
    assert l2p["total_bytes"] >= 4 * l2p["trainable_parameters"]
    assert l2p["flops_per_sample"] > ncm["flops_per_sample"] > 0
    assert l2p["peak_memory_bytes"] > 0


def test_a_resumed_experiment_does_only_what_is_left(make):
    text = DIGITS + '[[method]]\nname = "ncm"\n[[method]]\nname = "linear_head"\ntrain.epochs = 1\n'
    first = run(make(text))
    file = RunFolder(make(text, resume=True).folder.path).results
    kept = json.loads(file.read_text(encoding="utf-8"))
    kept["runs"] = kept["runs"][1:]
    file.write_text(json.dumps(kept), encoding="utf-8")
    seen = []
    second = make(text, resume=True).run(lambda job, record: seen.append(job.entry.label))
    assert seen == ["ncm"]
    for before, after in zip(first["runs"], second["runs"], strict=True):
        assert AccuracyMatrix.from_json(before) == AccuracyMatrix.from_json(after)


def test_methods_may_be_added_to_an_experiment_that_goes_on(make):
    ncm = '[[method]]\nname = "ncm"\n'
    first = run(make(DIGITS + ncm))
    seen = []
    more = DIGITS + '[[method]]\nname = "slda"\n' + ncm
    with pytest.raises(ConfigError, match="--resume to go on"):
        make(more)
    runner = make(more, resume=True)
    results = runner.run(lambda job, record: seen.append(job.entry.label))
    assert seen == ["slda"]
    assert [run["label"] for run in results["runs"]] == ["slda", "ncm"]
    assert results["complete"] and results["runs"][1] == first["runs"][0]
    assert [e.label for e in read_experiment(runner.folder.config).methods] == ["slda", "ncm"]
    with pytest.raises(ConfigError, match=r"differ: method\.slda\. Choose"):  # none may go
        make(DIGITS + ncm, resume=True)
    with pytest.raises(ConfigError, match=r"differ: .*seeds"):  # nor anything else change
        make(more + '[[method]]\nname = "ridge"\n', "seeds=[4]", resume=True)


def test_a_method_whose_label_begins_with_a_new_one_may_not_change(make):
    row = '[[method]]\nname = "linear_head"\nlabel = "head.1"\ntrain.epochs = {}\n'
    run(make(DIGITS + row.format(1)))
    more = '[[method]]\nname = "ncm"\nlabel = "head"\n'
    make(DIGITS + row.format(1) + more, resume=True)
    with pytest.raises(ConfigError, match=r"differ: .*method\.head\.1\.train\.epochs"):
        make(DIGITS + row.format(2) + more, resume=True)


def test_a_method_that_was_not_run_may_be_run_now(make):
    ncm, slda = (f'[[method]]\nname = "{name}"\n' for name in ("ncm", "slda"))
    run(make('[not_run]\nslda = "no time"\n' + DIGITS + ncm))
    results = run(make(DIGITS + ncm + slda, resume=True))
    assert [record["label"] for record in results["runs"]] == ["ncm", "slda"]
    assert not results["not_run"]


def test_a_folder_in_use_is_refused_and_differing_keys_are_named(make):
    text = DIGITS + '[[method]]\nname = "ncm"\n'
    run(make(text))
    with pytest.raises(ConfigError, match="--resume to go on"):
        make(text)
    for resume in (True, False):
        with pytest.raises(ConfigError, match=r"differ: seeds, method\.ncm\.normalize"):
            make(text, "seeds=[4]", "method.ncm.normalize=true", resume=resume)
    with pytest.raises(ConfigError, match=r"differ: method\.slda, method\.ncm\. Choose"):
        make(DIGITS + '[[method]]\nname = "slda"\n', resume=True)
    make(text, 'description="said better"', resume=True)


def test_options_newer_than_a_folder_do_not_stop_its_resuming(make):
    text = DIGITS + '[[method]]\nname = "ncm"\n'
    runner = make(text)
    run(runner)
    config = runner.folder.config
    old = config.read_text().replace("normalize = false\n", "").replace('evaluate = "test"\n', "")
    assert "normalize" not in old
    config.write_text(old)
    make(text, resume=True)
    with pytest.raises(ConfigError, match=r"differ: method\.ncm\.normalize\."):
        make(text, "method.ncm.normalize=true", resume=True)


def test_a_damaged_checkpoint_stops_the_resumed_run(make):
    text = DIGITS + '[[method]]\nname = "ncm"\n'
    runner = make(text)
    run(runner)
    runner.folder.results.unlink()
    file = next(runner.folder.checkpoint("ncm", 0).glob("head*"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="altered"):
        run(make(text, resume=True))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("method.l2p.top_k=11", PoolError, "method 'l2p' of"),
        ("stream.tasks=10", DataError, "two classes a task.*'l2p'"),
        ("stream.tasks=11", CpoolError, "the stream of"),
        ("backbone.layers=[99]", CpoolError, "the backbone of"),
        ("backbone.name=/no/such/folder", CpoolError, "/no/such/folder"),
        ("backbone.name=embeded", CpoolError, "Did you mean 'embedded'"),
        (
            "backbone.name=package:no_such_package/x",
            CpoolError,
            "pip install --no-deps no-such-pac",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    make, tmp_path, change, error, words
):
    with pytest.raises(error, match=words):
        make(DIGITS + '[[method]]\nname = "ncm"\n[[method]]\nname = "l2p"\n', change)
    assert not (tmp_path / "out").exists()


def test_text_is_not_for_a_vision_model(make, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("text,label,split\n" + "a,x,train\na,x,test\nb,y,train\nb,y,test\n")
    with pytest.raises(ConfigError, match="a stream of texts"):
        make(HEAD + f'name = "text_file"\npath = "{table}"\ntasks = 1\n[method]\nname = "ncm"\n')


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_devices_that_are_not_there_are_refused(make, device):
    with pytest.raises(ConfigError, match=device):
        make(DIGITS + '[method]\nname = "ncm"\n', device=device)


@pytest.mark.parametrize("path", ["/proc/nothing/here", "{file}/below"])
def test_a_folder_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="can be written"):
        RunFolder(path.replace("{file}", str(tmp_path / "file"))).check({}, resume=False)


def test_a_probe_leaves_nothing(tmp_path):
    RunFolder(tmp_path / "a" / "b").check({}, resume=False)
    assert not list(tmp_path.iterdir())


def test_results_without_a_config_are_not_written_over(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no config\.toml"):
        RunFolder(tmp_path).check({}, resume=True)
