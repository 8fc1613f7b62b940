"""Trackers: what a run leaves in the files of the real packages."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cpool
from cpool.errors import ConfigError, MissingDependencyError, StateError, UnknownNameError
from cpool.methods import L2P, NCM
from cpool.output import Output
from cpool.run_log import MOST_SLOTS, TermMeans, row_values, usage_values
from cpool.trackers import KNOWN, Trackers, check_trackers


@pytest.fixture(scope="module")
def stream():
    return cpool.load_stream("split_digits", tasks=3, train_per_class=8, test_per_class=4)


@pytest.fixture(scope="module")
def backbone():
    return cpool.load_backbone("embedded")


def learner(backbone, trackers, folder="unused", *, seed=0, method=None, **options):
    method = method or L2P(pool_size=4, top_k=2, length=1)
    changes = {} if method.closed_form else {"epochs": 2}
    return cpool.Learner(
        method.build(backbone),
        seed=seed,
        trackers=trackers,
        tracker_folder=folder,
        device="cpu",
        quiet=True,
        **changes,
        **options,
    )


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return name → (step, value) of the event files of one run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}


def test_tensorboard_has_all_that_was_measured(backbone, stream, tmp_path):
    one = learner(backbone, ["tensorboard"], tmp_path)
    matrix = one.run(stream)
    found = scalars(tmp_path / "tensorboard" / "l2p-seed0")
    losses = [loss for task in one.losses for loss in task]
    steps, logged = zip(*found["train/loss"], strict=True)
    assert steps == (1, 2, 3, 4, 5, 6)
    assert logged == pytest.approx(losses, rel=1e-5)
    terms = [found[name] for name in found if name.startswith("train/loss/")]
    assert len(terms) == 2  # cross-entropy, and what the policy adds
    sums = np.sum([[value for _, value in term] for term in terms], axis=0)
    assert sums.tolist() == pytest.approx(losses, rel=1e-4)
    assert [value for _, value in found["train/task"]] == [0, 0, 1, 1, 2, 2]
    for task in range(3):
        column = [(t + 1, matrix.values[t, task]) for t in range(task, 3)]
        assert found[f"test/accuracy/task_{task}"] == [
            (step, pytest.approx(value)) for step, value in column
        ]
    summary = matrix.summary()
    assert found["test/average_accuracy"][-1] == (3, pytest.approx(summary["average_accuracy"]))
    assert [step for step, _ in found["test/forgetting"]] == [2, 3]
    assert found["test/forgetting"][-1][1] == pytest.approx(summary["forgetting"])
    trained = sum(value for _, value in found["seconds/train"])
    assert trained == pytest.approx(one.train_seconds, rel=1e-4)
    assert found["seconds/evaluate"][-1][1] == pytest.approx(one.predict_seconds, rel=1e-4)
    (branch,) = one.usage
    counts = np.sum(one.usage[branch], axis=0)
    shares = [found[f"slots/{branch}/share/{slot}"][-1][1] for slot in range(4)]
    assert shares == pytest.approx((counts / counts.sum()).tolist())
    (hparams,) = (tmp_path / "tensorboard" / "l2p-seed0").glob("*/hparams.yml")
    text = hparams.read_text(encoding="utf-8")
    assert "pool_size: 4" in text and "train.epochs: 2" in text and "method: l2p" in text


def test_tracking_changes_nothing(backbone, stream, tmp_path):
    tracked, plain = learner(backbone, ["tensorboard"], tmp_path), learner(backbone, [])
    assert tracked.run(stream) == plain.run(stream)
    assert tracked.losses == plain.losses
    assert not Path("unused").exists()


def test_runs_of_one_process_have_files_of_their_own_even_side_by_side(backbone, stream, tmp_path):
    both = [learner(backbone, ["tensorboard"], tmp_path, seed=seed) for seed in (0, 1)]
    for task in stream[:2]:
        for one in both:
            one.fit_task(task)
    for seed, one in enumerate(both):
        assert one.trackers.is_open
        one.trackers.close()
        assert not one.trackers.is_open
        found = scalars(tmp_path / "tensorboard" / f"l2p-seed{seed}")
        losses = [loss for task in one.losses for loss in task]
        assert [v for _, v in found["train/loss"]] == pytest.approx(losses, rel=1e-5)


def test_a_resumed_run_goes_on_counting(backbone, stream, tmp_path):
    whole = learner(backbone, ["tensorboard"], tmp_path / "whole")
    whole.run(stream)
    part = learner(backbone, ["tensorboard"], tmp_path / "parts")
    part.fit_task(stream[0])
    part.trackers.close()
    part.save(tmp_path / "saved")
    again = learner(backbone, ["tensorboard"], tmp_path / "parts").resume(tmp_path / "saved")
    for task in stream[1:]:
        again.fit_task(task)
    again.trackers.close()
    name = "tensorboard/l2p-seed0"
    expected = scalars(tmp_path / "whole" / name)["train/loss"]
    assert sorted(scalars(tmp_path / "parts" / name)["train/loss"]) == expected


def test_a_run_that_fails_closes_its_trackers(backbone, stream, tmp_path, monkeypatch):
    one = learner(backbone, ["tensorboard"], tmp_path)

    def fail(*args, **kwargs):
        assert one.trackers.is_open
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "_evaluate_row", fail)
    with pytest.raises(KeyboardInterrupt):
        one.run(stream)
    assert not one.trackers.is_open


def test_a_closed_form_method_has_accuracies_and_no_loss(backbone, stream, tmp_path):
    learner(backbone, ["tensorboard"], tmp_path, method=NCM()).run(stream)
    found = scalars(tmp_path / "tensorboard" / "ncm-seed0")
    assert len(found["test/average_accuracy"]) == 3
    assert not [name for name in found if name.startswith("train/")]


def test_only_the_process_that_writes_tracks(backbone, stream, tmp_path, monkeypatch):
    monkeypatch.setattr("cpool.processes.Processes.writes", False)
    one = learner(backbone, ["tensorboard"], tmp_path / "none")
    one.fit_task(stream[0])
    assert not (tmp_path / "none").exists()


def test_unknown_missing_and_repeated_trackers_are_refused(monkeypatch):
    with pytest.raises(UnknownNameError, match=r"mlflow, tensorboard, wandb.*'tensorboard'"):
        check_trackers(["tensorbord"])
    with pytest.raises(ConfigError, match="a list of different trackers"):
        check_trackers(["wandb", "wandb"])
    with pytest.raises(ConfigError, match="a list of different trackers"):
        check_trackers("wandb")
    for name in KNOWN:
        monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None)
        with pytest.raises(MissingDependencyError, match=f"pip install {name}"):
            check_trackers([name])


def test_a_tracker_that_does_not_start_is_named_and_nothing_was_learned(backbone, stream, tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    one = learner(backbone, ["tensorboard"], tmp_path / "file")
    with pytest.raises(ConfigError, match=r"'tensorboard' to start.*FileExistsError"):
        one.fit_task(stream[0])
    assert (one.done, one.model.tasks, one.trackers.is_open) == ([], [], False)


def test_the_package_is_not_imported_before_a_run(backbone):
    before = set(sys.modules)
    learner(backbone, ["wandb", "mlflow"])
    assert not {"wandb", "mlflow"} & (set(sys.modules) - before)


def wandb_records(file: Path):
    """Yield the records of an offline run: LevelDB's log format behind 7 bytes of wandb's own."""
    from wandb.proto import wandb_internal_pb2 as pb

    data, place, part = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        if kind == 0:  # the rest of the block is padding
            place += 32768 - place % 32768
            continue
        part += data[place + 7 : place + 7 + size]
        place += 7 + size
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        if kind in (1, 4):  # whole, or the last part
            record = pb.Record()
            record.ParseFromString(part)
            part = b""
            yield record


@pytest.mark.slow
def test_wandb_keeps_each_run_offline(backbone, stream, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    matrices = {}
    for seed in (0, 1):
        matrices[f"l2p-seed{seed}"] = learner(backbone, ["wandb"], tmp_path, seed=seed).run(stream)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    names = set()
    for file in files:
        records = list(wandb_records(file))
        (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
        names.add(run.display_name)
        summary = matrices[run.display_name].summary()
        assert run.project == "cpool"
        config = {u.key: u.value_json for u in run.config.update}
        assert config["pool_size"] == "4" and config["train.epochs"] == "2"
        rows = [
            {"/".join(i.nested_key) or i.key: float(i.value_json) for i in r.history.item}
            for r in records
            if r.WhichOneof("record_type") == "history"
        ]
        assert [row["epoch"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
        assert [row["task"] for row in rows if "test/average_accuracy" in row] == [1, 2, 3]
        averages = [row["test/average_accuracy"] for row in rows if "test/average_accuracy" in row]
        assert averages[-1] == pytest.approx(summary["average_accuracy"])
        metrics = [r.metric for r in records if r.WhichOneof("record_type") == "metric"]
        assert {(m.glob_name, m.step_metric) for m in metrics if m.glob_name} >= {
            ("train/*", "epoch"),
            ("test/*", "task"),
        }
    assert names == {"l2p-seed0", "l2p-seed1"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_mlflow_writes_to_a_store_in_the_folder(backbone, stream, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    both = [learner(backbone, ["mlflow"], tmp_path, seed=seed) for seed in (0, 1)]
    both[0].fit_task(stream[0])
    with pytest.raises(StateError, match=r"'l2p-seed0'.*trackers\.close\(\)"):
        both[1].fit_task(stream[0])
    both[0].trackers.close()
    matrix = both[1].run(stream)
    assert (mlflow.active_run(), mlflow.get_tracking_uri()) == (None, before)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("cpool")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"l2p-seed0", "l2p-seed1"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    run = runs["l2p-seed1"]
    assert (run.data.params["method"], run.data.params["train.epochs"]) == ("l2p", "2")
    history = client.get_metric_history(run.info.run_id, "test/average_accuracy")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert history[-1].value == pytest.approx(matrix.summary()["average_accuracy"])


def test_terms_are_means_over_all_steps():
    terms = TermMeans()
    for values in ({"a": 1.0}, {"a": 2.0, "b": 3.0}):
        losses = {name: torch.tensor(value) for name, value in values.items()}
        terms.add(Output(torch.zeros(1, 2), torch.stack(list(losses.values())).sum(), losses))
    assert terms.means() == {"loss": 3.0, "loss/a": 1.5, "loss/b": 1.5}


def test_a_row_of_joint_training_has_an_average_and_no_forgetting():
    matrix = cpool.AccuracyMatrix(2)
    for task, accuracy in enumerate((0.5, 1.0)):
        matrix.update(1, task, accuracy, 4)
    values = row_values(matrix, 1)
    assert (values["average_accuracy"], values["forgetting"]) == (0.75, None)
    assert values["accuracy/task_1"] == 1.0


def test_large_pools_have_no_share_for_each_slot():
    values = usage_values({"prompt": [[1] * (MOST_SLOTS + 1)]})
    assert values == {
        "prompt/size": 65.0,
        "prompt/used": 65.0,
        "prompt/effective": pytest.approx(65.0),
    }


def test_a_label_names_the_runs(backbone, stream, tmp_path):
    trackers = Trackers(["tensorboard"], tmp_path, project="mine", label="short")
    cpool.Learner(NCM().build(backbone), seed=3, trackers=trackers, quiet=True).run(stream)
    assert (tmp_path / "tensorboard" / "short-seed3").is_dir()
