"""The common grid: every method on every kind of backbone keeps every promise."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cpool.errors import BackboneError, CpoolError
from cpool.learner import Learner
from cpool.methods import METHODS
from cpool.optimise import make_optimizer
from tests import tiny
from tests.common.rows import LANGUAGE, PREFIXES, ROWS, refused
from tests.common.tasks import build, logits, stream, trained

# The first row of a method runs on every kind, its variants on one kind of each family.
FIRST = set({ROWS[row]().name: row for row in reversed(ROWS)}.values())
CELLS = [
    pytest.param(row, kind, id=f"{row}-{kind}")
    for kind in tiny.KINDS
    for row in ROWS
    if not refused(row, kind) and (row in FIRST or kind in ("vit", "siglip", "bert", "llama"))
]
# What these rows freeze at a boundary: without it the test would watch an empty set.
FREEZES = {
    "l2p_growing": ("pool.blocks", "policy.keys"),
    "dualprompt": ("pool.blocks", "policy.keys"),
    "linear_head_frozen": ("head.weights", "head.biases"),
    "hide_prompt": ("pool.blocks",),
    "convprompt": ("pool.blocks", "policy.keys"),
    "osprompt": ("pool.blocks", "policy.keys", "policy.attention"),
    "ease": ("pool.blocks",),
    "first_session_prompt": ("pool.blocks",),
    "prompt_ridge": ("pool.blocks",),
    "coda_prompt": ("pool.blocks", "policy.keys", "policy.attention"),
    "sprompts": ("pool.blocks", "head.experts"),
    "progressive_prompts": ("pool.blocks", "head.experts"),
    "mocl": ("pool.blocks", "policy.keys"),
    "sapt": ("pool.blocks", "policy.keys"),
    "prompt_tuning": ("pool.blocks",),
    "prefix_tuning": ("pool.blocks",),
    "prefix_tuning_through": ("pool.blocks",),
    "multitask_prompt": ("pool.blocks", "pool.shared"),
    "multitask_prompt_ranks": ("pool.blocks", "pool.shared"),
    "multitask_prompt_taught": ("pool.blocks", "pool.shared"),
    "attempt": ("pool.blocks", "policy.networks"),
    "progressive_prompt_tuning": ("pool.blocks",),
    "pez": ("pool.blocks",),
    "ranpac_first_session": ("pool.blocks",),
}


def test_every_method_has_a_row():
    assert {ROWS[row]().name for row in ROWS} == set(METHODS)


@pytest.mark.parametrize("row", PREFIXES)
@pytest.mark.parametrize("kind", tiny.NO_PREFIX)
def test_a_backbone_that_cannot_carry_prefixes_is_refused_with_the_reason(row, kind):
    with pytest.raises(BackboneError, match=r"attention|go into its decoder"):
        build(row, kind)


@pytest.mark.parametrize("row", LANGUAGE)
@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_a_backbone_without_words_is_refused_with_the_reason(row, kind):
    with pytest.raises(CpoolError, match=r"a language model|with a tokenizer"):
        build(row, kind)


@pytest.mark.parametrize(("row", "kind"), CELLS)
def test_the_backbone_is_unchanged(row, kind):
    seen, backbone = trained(row, kind), tiny.backbone(kind)
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(tensor, seen.before[name]), name
    assert not any(p.requires_grad or p.grad is not None for p in backbone.model.parameters())
    assert not any(module.training for module in backbone.modules())


@pytest.mark.parametrize(("row", "kind"), CELLS)
def test_a_prediction_is_the_same_alone_shuffled_and_in_a_padded_batch_of_128(row, kind):
    learner = trained(row, kind).learner
    batch = tiny.batch(kind, 128, seed=7)
    together = logits(learner, batch)
    shuffled = torch.randperm(128)
    assert torch.allclose(
        logits(learner, tiny.rows(batch, shuffled)), together[shuffled], atol=1e-5
    )
    for row_number in (0, 63, 127):
        alone = logits(learner, tiny.unpadded(batch, row_number))
        assert torch.allclose(alone[0], together[row_number], atol=1e-5), row_number
    more = tiny.padded(batch, 3, "right")
    assert torch.allclose(logits(learner, more), together, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("row", "kind"), CELLS)
def test_what_is_frozen_stays_bit_identical(row, kind, optimizer):
    """Fault 5: weight decay and momentum move parameters whose gradient is masked."""
    seen = trained(row, kind, optimizer)
    now = dict(nn.Module.named_parameters(seen.learner.model))
    for frozen in seen.frozen:
        for name, tensor in frozen.items():
            assert torch.equal(now[name], tensor), name
    for part in FREEZES.get(row, ()):
        assert any(part in name for name in seen.frozen[-1]), f"{row} freezes {part}"


@pytest.mark.parametrize(("row", "kind"), CELLS)
def test_new_parameters_reach_the_optimiser_and_move(row, kind):
    """Fault 6: parameters made after the optimiser was built never train."""
    seen = trained(row, kind)
    now = dict(nn.Module.named_parameters(seen.learner.model))
    for grown in seen.grown:
        for name, tensor in grown.items():
            if name not in now and ("probe" in name or "through" in name):
                continue  # thrown away when its task ended
            assert not torch.equal(now[name], tensor), f"{name} never moved"
    held = {id(p) for g in _groups(seen.learner) for p in g["params"]}
    assert held == {id(p) for p in now.values() if p.requires_grad}


def _groups(learner):
    if not list(learner.model.parameters()):
        return []
    return make_optimizer(learner.model, learner.train).param_groups


@pytest.mark.parametrize(("row", "kind"), CELLS)
def test_save_and_load_are_exact(row, kind, tmp_path):
    seen = trained(row, kind).learner
    seen.save(tmp_path)
    loaded = Learner.load(tmp_path, tiny.backbone(kind), device="cpu", quiet=True)
    batch = tiny.batch(kind, 9, seed=3)
    assert torch.equal(logits(loaded, batch), logits(seen, batch))
    assert loaded.classes == seen.classes
    there, here = loaded.model.state_dict(), seen.model.state_dict()
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name], here[name]) for name in here)
    frozen = {n: p.requires_grad for n, p in nn.Module.named_parameters(seen.model)}
    assert {n: p.requires_grad for n, p in nn.Module.named_parameters(loaded.model)} == frozen


@pytest.mark.parametrize(("row", "kind"), CELLS)
def test_the_same_seed_gives_the_same_matrix_and_weights(row, kind):
    first, again = trained(row, kind), build(row, kind)
    torch.randn(5)  # the caller's random numbers must not matter
    if again.model.method.needs_task:  # `run` refuses it where the task is not told
        anew = trained.__wrapped__(row, kind)
        again, values = anew.learner, anew.matrix
    else:
        values = again.run(stream(kind)).values
    if first.matrix is not None:
        assert np.array_equal(values, first.matrix, equal_nan=True)
    there, here = again.model.state_dict(), first.learner.model.state_dict()
    assert all(torch.equal(there[name], here[name]) for name in here)


@pytest.mark.parametrize(("row", "kind"), CELLS)
def test_without_the_task_nothing_of_the_task_can_leak(row, kind):
    """At test the task is None: a model moved to the state "in task t" predicts the same."""
    learner = trained(row, kind).learner
    batch = tiny.batch(kind, 20, seed=5)
    plain = logits(learner, batch)
    model = copy.deepcopy(learner.model)
    with torch.no_grad():
        for task in range(len(model.tasks)):
            model.eval()(batch, task=task)  # a call that was told the task leaves no trace
            assert torch.equal(model(batch).logits, plain)
        labelled = model({**batch, "labels": torch.full((20,), model.classes[-1])})
    assert torch.equal(labelled.logits, plain), "labels in the batch do not change the logits"
    finite = torch.isfinite(plain)
    if learner.model.head.routed:  # a sample's expert knows its own classes, and no others
        finite = finite.any(dim=1)
    assert finite.all(), "all seen classes compete"


@pytest.mark.parametrize(("row", "kind"), CELLS)
def test_parameters_are_what_trains(row, kind):
    model = trained(row, kind).learner.model
    backbone = {id(p) for p in model.backbone.parameters()}
    assert all(p.requires_grad and id(p) not in backbone for p in model.parameters())
    assert not any("backbone" in name for name in model.state_dict())
