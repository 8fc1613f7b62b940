"""Diagnostics: usage, keys and queries in one plane; and looking into a checkpoint."""

import numpy as np
import pytest
import torch

import cpool
from cpool.errors import CheckpointError
from cpool.experiment.diagnostics import SAMPLE, describe_pools
from cpool.experiment.inspect import inspect_checkpoint
from cpool.seeding import seeded


@pytest.fixture(scope="module")
def stream():
    return cpool.load_stream("split_digits", tasks=2)


@pytest.fixture(scope="module")
def learner(tiny_backbone, stream, tmp_path_factory):
    method = cpool.DualPrompt(general_layers=(0,), expert_layers=(1,), general_length=2)
    with seeded(0):
        model = method.build(cpool.load_backbone(tiny_backbone))
    learner = cpool.Learner(model, epochs=1, quiet=True)
    learner.run(stream)
    return learner


def test_shapes_and_counts(learner, stream):
    drawn = describe_pools(learner, stream)
    assert drawn is not None
    general, expert = drawn["branches"]
    assert (general["name"], general["keys"]) == ("general", None)
    assert len(expert["keys"]) == len(expert["slots"]) == 2
    assert [query["task"] for query in drawn["queries"]] == [0, 1]
    assert all(len(query["xy"]) == SAMPLE for query in drawn["queries"])
    usage = np.array(expert["usage"])
    assert usage.sum(axis=1).tolist() == [len(task.test) for task in stream]
    assert set(expert["slots"][0]) == {"id", "name", "task", "enabled", "trained_steps", "parent"}


def test_the_same_learner_gives_the_same_plane(learner, stream):
    assert describe_pools(learner, stream) == describe_pools(learner, stream)


def test_keys_and_queries_share_a_plane_of_normalised_rows(learner, stream):
    drawn = describe_pools(learner, stream)
    assert drawn is not None
    points = np.array([*drawn["branches"][1]["keys"], *drawn["queries"][0]["xy"]])
    assert points.shape[1] == 2
    assert np.abs(points).max() <= 2.0  # unit vectors are at most 2 apart


def test_a_method_without_prompts_has_no_pools(tiny_backbone, stream):
    learner = cpool.Learner(cpool.NCM().build(cpool.load_backbone(tiny_backbone)))
    learner.run(stream)
    assert describe_pools(learner, stream) is None


def test_inspect_needs_no_backbone_and_agrees_with_the_model(learner, tmp_path):
    learner.save(tmp_path)
    view = inspect_checkpoint(tmp_path)
    general, expert = view.branches
    branch = learner.model.prompter.branches["expert"]
    assert expert.shape == (2, 5, 16)
    assert [slot.frozen for slot in expert.slots] == [True, True]  # both tasks are finished
    assert [slot.parent for slot in expert.slots] == [None, 0]
    assert [slot.steps for slot in expert.slots] == branch.pool.trained_steps.tolist()
    norms = branch.pool.values().flatten(1).norm(dim=1).tolist()
    assert [slot.value_norm for slot in expert.slots] == pytest.approx(norms)
    keys = branch.policy.keys().detach()
    assert expert.slots[0].nearest == 1
    cosine = torch.nn.functional.cosine_similarity(keys[0], keys[1], dim=0)
    assert expert.slots[0].cosine == pytest.approx(float(cosine))
    assert (general.slots[0].key_norm, general.slots[0].nearest) == (None, None)
    assert [list(row) for row in expert.usage] == learner.usage["expert"]
    assert inspect_checkpoint(tmp_path / "manifest.json").files == view.files


def test_inspect_finds_every_altered_file(learner, tmp_path):
    learner.save(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(CheckpointError, match=file.name):
            inspect_checkpoint(tmp_path)
        file.write_bytes(data)
    inspect_checkpoint(tmp_path)


def test_inspect_of_a_folder_of_checkpoints_names_them(learner, tmp_path):
    learner.save(tmp_path / "l2p" / "seed0")
    with pytest.raises(CheckpointError, match=r"Name one of .*seed0"):
        inspect_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        inspect_checkpoint(tmp_path / "nothing")
