"""Checkpoints: exact, incremental, atomic, and honest about what is wrong with them."""

import errno
import json
import os

import numpy as np
import pytest
import torch

from cpool import _io
from cpool.checkpoint import MANIFEST, _digest, read_manifest
from cpool.errors import CheckpointError, StateError
from cpool.learner import Learner
from cpool.methods import L2P
from cpool.streams import class_incremental
from tests import tiny
from tests.common.tasks import build, logits, stream


@pytest.fixture
def saved(tmp_path):
    learner = build("dualprompt", "vit")
    for task in stream("vit")[:2]:
        learner.fit_task(task)
    learner.save(tmp_path)
    return learner, tmp_path


def load(folder, kind="vit"):
    return Learner.load(folder, tiny.backbone(kind), device="cpu", quiet=True)


def test_a_block_a_file_and_the_manifest_names_them_all(saved):
    _, folder = saved
    parts = sorted(entry["part"] for entry in read_manifest(folder)["files"].values())
    assert parts == [
        "expert.block0000",
        "expert.block0001",
        "expert.policy",
        "expert.pool",
        "general.block0000",
        "general.policy",
        "general.pool",
        "head",
    ]
    names = {path.name for path in folder.iterdir()}
    assert names == {*read_manifest(folder)["files"], MANIFEST}


def test_saving_after_a_task_writes_only_what_is_new(saved, monkeypatch):
    learner, folder = saved
    learner.fit_task(stream("vit")[2])
    frozen = next(folder.glob("expert.block0001-*"))
    before = frozen.stat().st_mtime_ns
    written = []
    write = _io.write_bytes
    monkeypatch.setattr(
        "cpool.checkpoint.write_bytes", lambda p, d: (written.append(p), write(p, d))
    )
    learner.save(folder)
    names = sorted(path.name.split("-")[0] for path in written)
    assert "expert.block0002" in names
    assert "expert.block0001" not in names
    assert "expert.block0000" not in names
    assert frozen.stat().st_mtime_ns == before


def test_one_altered_byte_is_found(saved):
    _, folder = saved
    path = next(folder.glob("head-*"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"head-.*SHA-256"):
        load(folder)


def test_a_truncated_file_is_found(saved):
    _, folder = saved
    path = next(folder.glob("expert.block0000-*"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="altered or cut"):
        load(folder)


def test_a_missing_file_is_found(saved):
    _, folder = saved
    next(folder.glob("general.pool-*")).unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        load(folder)


def change(folder, **entries):
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_an_altered_byte_of_the_manifest_is_found(saved):
    _, folder = saved
    path = folder / MANIFEST
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 60, replace=False):
        data = bytearray(whole)
        data[place] ^= 1
        if bytes(data).split() == whole.split():
            continue  # white space between values means nothing
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            load(folder)
    path.write_bytes(whole)
    load(folder)


def test_files_of_other_people_in_the_folder_are_left_alone(saved):
    learner, folder = saved
    theirs = folder / "model.safetensors"
    theirs.write_bytes(b"theirs")
    learner.fit_task(stream("vit")[2])
    learner.save(folder)
    assert theirs.read_bytes() == b"theirs"
    parts = [entry["part"] for entry in read_manifest(folder)["files"].values()]
    assert len(list(folder.glob("*.safetensors"))) == len(parts) + 1


def test_another_method_or_stream_is_not_gone_on_with(tmp_path):
    build("l2p", "vit").run(stream("vit"), tmp_path)
    other = Learner(L2P(pool_size=5, top_k=2).build(tiny.backbone("vit")), device="cpu", quiet=True)
    other.train = build("l2p", "vit").train
    with pytest.raises(CheckpointError, match=r"method=.*'pool_size': 4.*'pool_size': 5"):
        other.resume(tmp_path)
    x, y = tiny.raw("vit", 24, 3), np.tile(np.arange(6), 4)
    elsewhere = class_incremental(x, y, x, y, tasks=3, seed=0, validation=0)
    with pytest.raises(CheckpointError, match="the stream that was begun"):
        build("l2p", "vit").run(elsewhere, tmp_path, resume=True)


def test_a_learner_that_has_learned_cannot_resume(saved):
    learner, folder = saved
    with pytest.raises(StateError, match="a new learner"):
        learner.resume(folder)


def test_a_newer_schema_asks_for_a_newer_cpool(saved):
    _, folder = saved
    change(folder, schema=99)
    with pytest.raises(CheckpointError, match=r"schema 99.*Install a newer cpool"):
        load(folder)


def test_a_broken_manifest(saved):
    _, folder = saved
    (folder / MANIFEST).write_text('{"schema": 1')
    with pytest.raises(CheckpointError, match="readable JSON"):
        load(folder)


def test_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"manifest\.json in"):
        load(tmp_path)


def test_another_backbone_is_refused_and_both_are_named(saved):
    _, folder = saved
    with pytest.raises(CheckpointError, match=r"tiny-vit .* got tiny-deit"):
        load(folder, "deit")


def test_other_query_features_are_refused(saved):
    _, folder = saved
    other = tiny.new("vit", pooling="mean")
    with pytest.raises(CheckpointError, match=r"pooling cls.*pooling mean"):
        Learner.load(folder, other, device="cpu", quiet=True)


def test_a_model_of_another_build_is_refused(saved):
    _, folder = saved
    model = L2P(pool_size=4, top_k=2).build(tiny.backbone("vit"))
    with pytest.raises(CheckpointError, match="same method"):
        Learner.load(folder, tiny.backbone("vit"), model, device="cpu", quiet=True)


def test_settings_that_came_later_are_at_their_defaults(saved):
    """A checkpoint of an older version knows neither all training settings nor all options."""
    _, folder = saved
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["train"]["anchor"], manifest["method"]["hyper_parameters"]["pull"]
    manifest["sha256"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert load(folder).train.anchor == 0.0
    again = build("dualprompt", "vit")
    again.resume(folder)
    again.fit_task(stream("vit")[2])
    other = build("dualprompt", "vit")
    other.train = other.train.but(anchor=2.0)
    with pytest.raises(CheckpointError, match=r"anchor=0\.0; got anchor=2\.0"):
        other.resume(folder)


def test_resuming_with_other_settings_is_refused(saved):
    _, folder = saved
    learner = build("dualprompt", "vit", optimizer="sgd")
    with pytest.raises(CheckpointError, match=r"weight_decay=0.5"):
        learner.resume(folder)


@pytest.mark.parametrize("row", ["l2p", "dualprompt", "ranpac", "fine_tune", "joint"])
def test_a_stopped_run_ends_with_the_same_matrix(row, tmp_path):
    whole = build(row, "vit").run(stream("vit"))
    stopped = build(row, "vit")
    learn = stopped.fit_task

    def learn_one(task):
        if stopped.done:
            raise KeyboardInterrupt
        learn(task)

    stopped.fit_task = learn_one
    if row != "joint":
        with pytest.raises(KeyboardInterrupt):
            stopped.run(stream("vit"), tmp_path)
    resumed = build(row, "vit")
    matrix = resumed.run(stream("vit"), tmp_path, resume=True)
    assert np.array_equal(matrix.values, whole.values, equal_nan=True)
    assert build(row, "vit").run(stream("vit"), tmp_path, resume=True) == matrix


def test_a_full_disk_while_saving_leaves_the_old_checkpoint_whole(saved, monkeypatch):
    learner, folder = saved
    batch = tiny.batch("vit", 6)
    before = logits(load(folder), batch)
    learner.fit_task(stream("vit")[2])
    real, count = os.fsync, [0]

    def full(handle):
        count[0] += 1
        if count[0] > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        learner.save(folder)
    monkeypatch.undo()
    assert torch.equal(logits(load(folder), batch), before)
    assert not list(folder.glob(".*.part")), "nothing half-written is left behind"


def test_a_folder_that_cannot_be_written(saved, monkeypatch, tmp_path_factory):
    learner, _ = saved
    blocked = tmp_path_factory.mktemp("blocked") / "file"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(CheckpointError, match="Free some space or choose a folder"):
        learner.save(blocked / "inside")


def test_a_checkpoint_needs_no_training_data(saved):
    learner, folder = saved
    loaded = load(folder)
    x = tiny.raw("vit", 7)
    assert np.array_equal(loaded.predict(x), learner.predict(x))
    loaded.fit_task(stream("vit")[2])
    assert len(loaded.model.tasks) == 3


def test_a_run_does_not_write_over_another_unasked(saved):
    _, folder = saved
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(CheckpointError, match="resume=True"):
        build("dualprompt", "vit").run(stream("vit"), folder)
    assert (folder / MANIFEST).read_bytes() == before
