"""Eviction: who goes, what stands for it, what the record says, what stays to the bit."""

import json

import pytest
import torch

from cpool.errors import PoolError
from cpool.policies import (
    Everything,
    GaussianRouter,
    Mixture,
    NearestCentroid,
    SoftAttention,
    TopK,
    evict,
)
from cpool.pool import PromptPool

Q = 6
WITH_KEYS = {
    "top_k": lambda: TopK(Q),
    "mixture": lambda: Mixture(Q),
    "soft_attention": lambda: SoftAttention(Q),
    "nearest_centroid": lambda: NearestCentroid(Q, 2),
    "gaussian_router": lambda: GaussianRouter(Q),
}


def grown(make=lambda: TopK(Q), sizes=(1, 1, 1, 1), usage=(5, 1, 3, 0)):
    """A pool and its policy; the last block trains, the others are frozen."""
    pool, policy = PromptPool(2, 3, 4), make()
    for task, size in enumerate(sizes):
        pool.freeze_all()
        policy.freeze_all()
        pool.grow(size, task=task)
        policy.grow(size, task)
        policy.end_task(torch.randn(9, Q) + torch.randn(Q), task)
    pool.trained_steps = torch.tensor(usage)
    if isinstance(policy, TopK):
        policy.count = torch.tensor(usage).float()
    return pool, policy


def consistent(pool, policy):
    assert len(pool) == len(policy) == len(pool.values()) == len(pool.available(training=True))
    assert [slot.task for slot in pool.slots] == policy.owner.tolist()
    sizes = [len(block) for block in pool.blocks]
    if hasattr(policy, "keys"):
        assert policy.keys.sizes() == sizes and len(policy.keys()) == len(pool)
    chosen = policy.eval()(torch.randn(5, Q), None, pool.available(training=True))
    assert pool.gather(chosen).shape[1:] == (2, 3, 4)


@pytest.mark.parametrize("make", WITH_KEYS.values(), ids=WITH_KEYS)
@pytest.mark.parametrize("how", ["usage", "merge", "pca"])
def test_the_pool_fits_and_all_parts_agree(make, how):
    pool, policy = grown(make)
    if how == "pca" and not hasattr(policy, "keys"):
        with pytest.raises(PoolError, match="kept, dropped or merged"):
            evict(pool, policy, 3, how)
        assert len(pool) == 4, "a refusal leaves the pool whole"
        return consistent(pool, policy)
    training, last = pool.blocks[-1], pool.slots[-1]
    records = evict(pool, policy, 3, how)
    assert len(pool) == 3
    assert pool.blocks[-1] is training and training.requires_grad and pool.slots[-1] == last
    assert all(not block.requires_grad for block in list(pool.blocks)[:-1])
    assert {record.how for record in records} == {how}
    return consistent(pool, policy)


def test_a_pool_that_fits_is_left_alone():
    pool, policy = grown()
    blocks = list(pool.blocks)
    assert evict(pool, policy, 4) == []
    assert all(a is b for a, b in zip(blocks, pool.blocks, strict=True))


def test_the_least_used_goes_first_and_the_record_tells_what_its_queries_get_instead():
    pool, policy = grown()
    values, keys = pool.values().detach().double(), policy.keys().detach().double()
    stays = [pool.blocks[i] for i in (0, 2, 3)]
    (record,) = evict(pool, policy, 3)
    assert record.gone == (1,) and record.usage == pytest.approx(1 / 9)
    unit = keys / keys.norm(dim=1, keepdim=True)
    gaps = [float((unit[m] - unit[1]).norm()) if m != 1 else 9.0 for m in range(4)]
    near = min(range(4), key=gaps.__getitem__)
    assert record.heirs == (near,) and record.key_distance == pytest.approx(gaps[near], abs=1e-6)
    error = (values[1] - values[near]).norm() / values[1].norm()
    assert record.error == pytest.approx(float(error), abs=1e-6)
    assert [slot.id for slot in pool.slots] == [0, 2, 3]
    assert all(a is b for a, b in zip(stays, pool.blocks, strict=True))
    assert policy.count.tolist() == [5, 3, 0] and pool.trained_steps.tolist() == [5, 3, 0]
    (record,) = evict(pool, policy, 2)
    assert record.gone == (2,), "3 of 8"
    assert record.usage == pytest.approx(3 / 8)


def test_a_part_of_a_block_goes_and_the_rest_stays_to_the_bit():
    pool, policy = grown(sizes=(3, 2), usage=(2, 1, 2, 0, 0))
    values, keys = pool.values().detach().clone(), policy.keys().detach().clone()
    evict(pool, policy, 4)
    kept = [0, 2, 3, 4]
    assert torch.equal(pool.values(), values[kept]) and torch.equal(policy.keys(), keys[kept])
    assert [len(block) for block in pool.blocks] == [2, 2]
    assert [block.requires_grad for block in pool.blocks] == [False, True]
    assert [block.requires_grad for block in policy.keys.blocks] == [False, True]


def test_the_two_nearest_merge_weighted_by_usage():
    pool, policy = grown()
    with torch.no_grad():
        policy.keys.blocks[2].copy_(3 * policy.keys.blocks[0] + 0.01)
    values, keys = pool.values().detach().double(), policy.keys().detach().double()
    (record,) = evict(pool, policy, 3, "merge")
    assert record.gone == (0, 2) and record.heirs == (4,) and record.usage == pytest.approx(8 / 9)
    value, key = (5 * values[0] + 3 * values[2]) / 8, (5 * keys[0] + 3 * keys[2]) / 8
    assert torch.allclose(pool.values()[0].double(), value, atol=1e-6)
    assert torch.allclose(policy.keys()[0].double(), key, atol=1e-6)
    lost = ((values[0] - value).square().sum() + (values[2] - value).square().sum()).sqrt()
    whole = (values[0].square().sum() + values[2].square().sum()).sqrt()
    assert record.error == pytest.approx(float(lost / whole), abs=1e-6)
    slot = pool.slots[0]
    assert (slot.id, slot.parents, slot.task, slot.trained_steps) == (4, (0, 2), 0, 8)
    assert policy.owner.tolist() == [0, 1, 3] and policy.count.tolist() == [8, 1, 0]
    assert torch.equal(pool.values()[1].double(), values[1])


def test_the_principal_components_keep_the_mean_and_restore_what_the_record_says():
    pool, policy = grown(sizes=(2, 2, 2, 1), usage=(1,) * 7)
    values = pool.values().detach().double()[:6].flatten(1)
    keys = policy.keys().detach().double()[:6]
    (record,) = evict(pool, policy, 4, "pca")
    assert record.gone == (0, 1, 2, 3, 4, 5) and record.heirs == (7, 8, 9)
    new = pool.values().detach().double()[:3].flatten(1)
    assert torch.allclose(new[0], values.mean(dim=0), atol=1e-6)
    # What the new slots span, found without the decomposition: least squares on their gaps.
    basis = (new[1:] - new[0]).T
    centred = (values - values.mean(dim=0)).T
    fit = torch.linalg.lstsq(basis, centred).solution
    lost = (centred - basis @ fit).norm()
    assert record.error == pytest.approx(float(lost / values.norm()), abs=1e-5)
    variances = torch.linalg.eigvalsh(centred @ centred.T).flip(0)
    assert float(lost.square()) == pytest.approx(float(variances[2:].sum()), rel=1e-4)
    # One standard deviation along each component, and the keys are combined alike.
    spread = (basis.square().sum(dim=0) * 6).tolist()
    assert spread == pytest.approx(variances[:2].tolist(), rel=1e-4)
    mixing = torch.linalg.lstsq(values.T, new.T).solution.T
    assert torch.allclose(policy.keys().detach().double()[:3], mixing @ keys, atol=1e-4)
    assert [len(block) for block in pool.blocks] == [3, 1]
    assert pool.slots[0].parents == (0, 1, 2, 3, 4, 5)
    assert policy.count.tolist() == [2, 2, 2, 1], "usage is handed on, none is made or lost"
    assert pool.trained_steps.tolist() == [2, 2, 2, 1]


def test_components_of_slots_that_span_less_than_the_room_are_fewer():
    pool, policy = grown(sizes=(2, 2, 2, 1), usage=(1,) * 7)
    with torch.no_grad():
        for block in list(pool.blocks)[:3]:
            block.copy_(torch.ones_like(block) * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
    (record,) = evict(pool, policy, 6, "pca")
    assert len(pool) == 3 and record.error == pytest.approx(0, abs=1e-9)


def test_everything_has_a_queue_of_components_and_no_keys_to_merge_by():
    pool, policy = grown(Everything)
    with pytest.raises(PoolError, match="keys"):
        evict(pool, policy, 3, "merge")
    for task in range(4, 9):
        pool.freeze_all()
        pool.grow(1, task=task)
        policy.grow(1, task)
        (record,) = evict(pool, policy, 4, "pca")
        assert len(pool) == len(policy) == 4 and record.key_distance is None
    (record,) = evict(pool, policy, 3, "usage")
    assert (record.heirs, record.error) == ((), 1.0)


@pytest.mark.parametrize("how", ["usage", "merge", "pca"])
def test_what_is_switched_off_goes_first(how):
    pool, policy = grown()
    pool.enable(2, False)
    records = evict(pool, policy, 3, how)
    assert [(r.how, r.gone) for r in records] == [("disabled", (2,))]
    assert [slot.id for slot in pool.slots] == [0, 1, 3]


@pytest.mark.parametrize("how", ["usage", "merge", "pca"])
def test_save_and_load_after_eviction_is_exact_and_ids_are_never_used_again(how):
    pool, policy = grown(sizes=(2, 2, 1), usage=(3, 1, 2, 4, 0))
    evict(pool, policy, 3, how)
    other, keys = PromptPool(2, 3, 4), TopK(Q)
    other.restore(json.loads(json.dumps(pool.layout())))
    keys.restore(json.loads(json.dumps(policy.layout())))
    other.load_state_dict(pool.state_dict())
    keys.load_state_dict(policy.state_dict())
    query = torch.randn(8, Q)
    assert other.slots == pool.slots
    assert torch.equal(other.values(), pool.values())
    assert torch.equal(keys.eval()(query).index, policy.eval()(query).index)
    taken = {slot.id for slot in pool.slots} | set(range(5))
    for grower in (pool, other):
        places = grower.grow(1, task=9)
        assert list(places) == [3] and grower.slots[3].id not in taken
    assert pool.slots[3].id == other.slots[3].id


def test_merging_two_gaussians_is_one_gaussian_of_both():
    pool, policy = grown(lambda: GaussianRouter(Q), usage=(1, 1, 1, 0))
    total, count = policy.total.clone(), policy.count.clone()
    (record,) = evict(pool, policy, 3, "merge")
    a, b = record.gone
    assert torch.allclose(policy.total[a], total[a] + total[b])
    assert policy.count[a] == count[a] + count[b]


def test_a_policy_that_does_not_say_what_becomes_of_its_state_is_refused():
    class Counting(Everything):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(9))

    pool, policy = grown(Counting)
    with pytest.raises(PoolError, match="recombine of its own"):
        evict(pool, policy, 3)
    assert len(pool) == len(policy) == 4


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda p, q: evict(p, q, 0), PoolError, "capacity of at least 1"),
        (lambda p, q: evict(p, q, 1, "pca"), PoolError, "capacity of at least 2"),
        (lambda p, q: (q.grow(1, 9), evict(p, q, 3)), PoolError, "equal size"),
    ],
)
def test_bad_calls_say_what_is_wrong(call, error, says):
    with pytest.raises(error, match=says):
        call(*grown())
