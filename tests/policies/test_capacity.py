"""A branch of bounded capacity: who is evicted when, what stays to the bit, what it costs."""

import copy
import json

import numpy as np
import pytest
import torch

from cpool.checkpoint import MANIFEST, _digest
from cpool.errors import CheckpointError, ConfigError, PoolError
from cpool.experiment.config import MethodEntry
from cpool.experiment.results import run_record
from cpool.heads import ExpertHead, LinearHead, MaskedHead, SessionHead, SubspaceHead
from cpool.learner import Learner
from cpool.methods import L2P, CODAPrompt
from cpool.model import PromptedModel
from cpool.policies import OwnSlot, TaskInference, TopK
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, Prompter
from cpool.seeding import seeded
from cpool.streams import class_incremental
from tests import tiny

VIT = tiny.backbone("vit")
METHODS = {
    "l2p_usage": (L2P(slots_per_task=2, top_k=2, length=2, own_task=False, capacity=5), 5),
    "l2p_pca": (
        L2P(slots_per_task=2, top_k=2, length=2, own_task=False, capacity=5, evict="pca"),
        5,
    ),
    "coda_merge": (CODAPrompt(layers=(0, 2), slots_per_task=2, length=2, capacity=5), 5),
}


def tasks(n=4):
    x, y = tiny.raw("vit", 12 * n), np.repeat(np.arange(2 * n), 6)
    x[np.arange(len(y)), y % 10, y] = 255
    return class_incremental(x, y, x, y, tasks=n, seed=0, validation=0, name="capacity")


def learner(method, **options):
    with seeded(3, "build"):
        model = method.build(VIT)
    options = {"epochs": 1, "batch_size": 6, "lr": 0.05, "device": "cpu", "quiet": True, **options}
    return Learner(model, **options)


def branches(run):
    return list(run.model.prompter)


@pytest.mark.parametrize("name", METHODS)
def test_the_capacity_is_kept_and_what_stays_is_untouched_to_the_bit(name):
    method, capacity = METHODS[name]
    run = learner(method)
    for task in tasks():
        before = [dict(zip(_ids(b), b.pool.values().detach().clone(), strict=True))
                  if len(b.pool) else {} for b in branches(run)]  # fmt: skip
        run.fit_task(task)
        for branch, old in zip(branches(run), before, strict=True):
            assert len(branch.pool) == len(branch.policy) <= capacity
            assert [s.task for s in branch.pool.slots][-2:] == [task.index] * 2
            now = dict(zip(_ids(branch), branch.pool.values(), strict=True))
            stayed = old.keys() & now.keys()
            assert all(torch.equal(old[i], now[i]) for i in stayed)
            gone = {i for r in branch.evictions if r["task"] == task.index for i in r["gone"]}
            assert gone & old.keys() == old.keys() - now.keys()
            assert bool(gone) == (2 * (task.index + 1) > capacity)
    assert all({r["task"] for r in b.evictions} == {2, 3} for b in branches(run))
    assert np.isfinite(run.evaluate(tasks())).all()


def _ids(branch):
    return [slot.id for slot in branch.pool.slots]


def test_what_eviction_costs_is_what_switching_the_slots_off_costs():
    """The matrix shows it: from the next row on the model answers without what was evicted."""
    wide = L2P(slots_per_task=1, top_k=1, length=2)
    full, bounded = learner(wide), learner(L2P(slots_per_task=1, top_k=1, length=2, capacity=3))
    stream, batch = tasks(), tiny.batch("vit", 24, seed=4)
    for run in (full, bounded):
        for task in stream[:3]:
            run.fit_task(task)
    (whole,), (small,) = branches(full), branches(bounded)
    assert torch.equal(whole.pool.values(), small.pool.values()), "nothing was evicted so far"
    least = int(whole.policy.usage().argmin())
    for run in (full, bounded):
        with seeded(5, "next"):
            run.model.begin_task(stream[3].classes)
            run.model.eval()
    (record,) = small.evictions
    assert record["gone"] == [least] and record["how"] == "usage" and record["task"] == 3
    model = copy.deepcopy(full.model)
    next(iter(model.prompter)).pool.enable(least, False)
    with torch.no_grad():
        asked = full.model(batch).selections["pool"].index
        assert torch.allclose(bounded.model(batch).logits, model(batch).logits, atol=1e-6)
        if bool((asked == least).any()):
            assert not torch.allclose(bounded.model(batch).logits, full.model(batch).logits)


def test_accuracy_that_is_lost_is_seen_in_the_matrix():
    matrices = [
        learner(L2P(slots_per_task=1, top_k=1, length=2, capacity=c), epochs=3).run(tasks()).values
        for c in (None, 1)
    ]
    assert np.array_equal(matrices[0][0], matrices[1][0], equal_nan=True), "one task, one slot"
    assert not np.array_equal(matrices[0], matrices[1], equal_nan=True)


@pytest.mark.parametrize("name", METHODS)
def test_resuming_and_loading_after_an_eviction_are_exact(name, tmp_path):
    method, _ = METHODS[name]
    stream, whole = tasks(), learner(method)
    whole.run(stream)
    half = learner(method)
    for task in stream[:3]:
        half.fit_task(task)
    half.save(tmp_path)
    resumed = learner(method).resume(tmp_path)
    resumed.fit_task(stream[3])
    there, here = whole.model.state_dict(), resumed.model.state_dict()
    assert there.keys() == here.keys() and all(torch.equal(there[k], here[k]) for k in there)
    for first, again in zip(branches(whole), branches(resumed), strict=True):
        assert again.evictions == first.evictions and len(again.evictions) >= 2
        assert _ids(again) == _ids(first)
    resumed.save(tmp_path)
    loaded = Learner.load(tmp_path, VIT, device="cpu", quiet=True)
    assert [b.evictions for b in branches(loaded)] == [b.evictions for b in branches(whole)]


def test_records_are_written_into_the_results():
    stream = tasks()
    for method, wanted in ((METHODS["coda_merge"][0], ["layer0", "layer2"]), (L2P(), None)):
        run = learner(method)
        run.run(stream)
        entry = MethodEntry(label="x", method=method, train=run.train)
        record = run_record(run, entry, stream, peak_memory=None, untrained=None)
        if wanted is None:
            assert record["evictions"] is None
            continue
        made = json.loads(json.dumps(record["evictions"]))
        assert list(made) == wanted
        assert made["layer0"] == branches(run)[0].evictions
        assert {"task", "how", "gone", "heirs", "error", "usage"} <= made["layer0"][0].keys()


def branch(policy=None, **options):
    size = EmbeddingSite()
    pool = PromptPool(size.sites, 2, VIT.hidden_size)
    made = TopK(VIT.query_size, 1) if policy is None else policy
    return Branch("pool", pool, made, size, **{"per_task": 1, "capacity": 3, **options})


SIZE = VIT.query_size
ROUTED = {
    "expert": (lambda: ExpertHead(SIZE, lambda: LinearHead(SIZE)), False, "routed by slot"),
    "masked": (lambda: MaskedHead(SIZE, 3), False, "routed by slot"),
    "session": (
        lambda: SessionHead(ExpertHead(SIZE, lambda: LinearHead(SIZE)), lambda: LinearHead(SIZE)),
        False,
        "routed by slot",
    ),
    "apart": (lambda: SubspaceHead(SIZE), True, "one pass a slot"),
}


@pytest.mark.parametrize(("head", "apart", "reason"), ROUTED.values(), ids=ROUTED)
def test_a_head_that_knows_slots_by_their_place_is_refused_with_a_capacity(head, apart, reason):
    made = branch(OwnSlot())
    with pytest.raises(ConfigError, match=f"{reason}.*Leave the capacity out"):
        PromptedModel(VIT, head(), Prompter([made]), apart=apart)
    PromptedModel(VIT, head(), Prompter([branch(OwnSlot(), capacity=None)]), apart=apart)
    PromptedModel(VIT, LinearHead(SIZE), Prompter([made]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"per_task": 2, "capacity": 1}, "capacity of at least 2"),
        ({"per_task": 2, "capacity": 2, "evict": "merge"}, "capacity of at least 3"),
        ({"per_task": 0, "start": 3}, "for a branch whose tasks add slots"),
        ({"policy": TaskInference(SIZE)}, "can drop and combine"),
    ],
)
def test_what_cannot_be_kept_is_refused_when_the_branch_is_made(options, says):
    with pytest.raises((PoolError, ConfigError), match=says):
        branch(**options)


def test_a_capacity_of_a_pool_that_does_not_grow_is_refused():
    with pytest.raises(ConfigError, match="capacity none without slots_per_task"):
        L2P(capacity=3)


def test_a_checkpoint_of_a_method_that_had_fewer_options_is_gone_on_with(tmp_path):
    stream, method = tasks(2), L2P(pool_size=3, top_k=1, length=2)
    first = learner(method)
    first.fit_task(stream[0])
    first.save(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    for later in ("capacity", "evict"):
        del manifest["method"]["hyper_parameters"][later]
    del manifest["sha256"]
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "sha256": _digest(manifest)}))
    assert learner(method).resume(tmp_path).done == first.done
    assert Learner.load(tmp_path, VIT, device="cpu", quiet=True).done == first.done
    with pytest.raises(CheckpointError, match="method="):
        learner(L2P(pool_size=3, top_k=2, length=2)).resume(tmp_path)
