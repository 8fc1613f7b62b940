"""Search: exact and through FAISS, ties, batches, what makes an index anew, recall."""

import copy
import pickle
import sys

import pytest
import torch

from cpool.errors import ConfigError, MissingDependencyError
from cpool.policies import TopK, recall_at
from cpool.policies.keys import KeyBlocks
from cpool.policies.ranking import largest
from cpool.policies.search import KeyIndex, exact

WIDTH = 8


def naive_best(keys, query, k, allowed):
    """Rank in float64 by loops: cosine down, slot number up."""
    rows = []
    for q in query.double():
        cosines = [
            (-float(q @ key / q.norm() / key.norm()), slot)
            for slot, key in enumerate(keys.detach().double())
            if allowed[slot]
        ]
        rows.append([slot for _, slot in sorted(cosines)[:k]])
    return rows


def keys_of(*sizes, frozen=()):
    keys = KeyBlocks(WIDTH)
    for size in sizes:
        keys.grow(size)
    for block in frozen:
        keys.blocks[block].requires_grad_(False)
    return keys


def policy_of(slots, search, blocks=1, index="ivf", width=WIDTH):
    policy = TopK(width, 3, search=search, index=index)
    for task in range(blocks):
        policy.grow(slots // blocks, task)
    return policy.eval()


@pytest.mark.parametrize("width", [6, 300, 1000])
def test_largest_equals_a_stable_sort_with_many_ties(width):
    score = torch.randint(0, 5, (30, width)).float() / 4
    score[:, 3] = -torch.inf
    for k in (1, 4):
        expected = [
            sorted(range(width), key=lambda m, row=row: (-row[m], m))[:k] for row in score.tolist()
        ]
        assert largest(score, k).tolist() == expected


@pytest.mark.parametrize("chunk", [65_536, 7])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_exact_equals_a_loop_in_float64(monkeypatch, chunk, share):
    monkeypatch.setattr("cpool.policies.search.CHUNK", chunk)
    keys, query = keys_of(20, 1, 30, 9, frozen=(0, 1)), torch.randn(12, WIDTH)
    allowed = torch.rand(60) < share
    assert exact(keys, query, 5, allowed).tolist() == naive_best(keys(), query, 5, allowed)


def test_exact_gives_ties_across_chunks_to_the_lowest_slot(monkeypatch):
    monkeypatch.setattr("cpool.policies.search.CHUNK", 4)
    keys = keys_of(10, 10)
    with torch.no_grad():
        for block in keys.blocks:
            block.copy_(torch.ones(10, WIDTH))
    best = exact(keys, torch.rand(3, WIDTH), 4, torch.arange(20) >= 2)
    assert best.tolist() == [[2, 3, 4, 5]] * 3


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_faiss_ranks_its_finds_as_the_exact_search_does(index):
    pytest.importorskip("faiss")
    policy, query = policy_of(400, "faiss", blocks=4, index=index), torch.randn(20, WIDTH)
    allowed = torch.rand(400) < 0.7
    found = policy(query, None, allowed)
    assert found.index.tolist() == naive_best(policy.keys(), query, 3, allowed)
    keys = torch.nn.functional.normalize(policy.keys().detach(), dim=1)
    cosine = torch.nn.functional.normalize(query, dim=1) @ keys.T
    assert torch.allclose(found.similarity, cosine.gather(1, found.index), atol=1e-6)


def test_clusters_of_product_codes_find_what_is_near():
    pytest.importorskip("faiss")
    policy = policy_of(6000, "faiss", width=32)
    slots = torch.randint(6000, (300,))
    query = policy.keys().detach()[slots] + 0.1 * torch.randn(300, 32)
    allowed = torch.ones(6000, dtype=torch.bool)
    assert "IVFPQFastScan" in type(policy.index.build(policy.keys, allowed)[0]).__name__
    recall = recall_at(policy, query, 1)
    assert 0.97 <= recall <= 1.0
    # What it says it measured: hits of the policy's own choice, counted by hand.
    right = exact(policy.keys, query, 1, allowed)[:, 0]
    hits = (policy(query).index[:, 0] == right).float().mean()
    assert recall == pytest.approx(float(hits))


def test_recall_counts_misses_of_a_poor_index():
    pytest.importorskip("faiss")
    policy = policy_of(6000, "faiss", width=32)
    policy.index = KeyIndex("ivf", probe=1e-9)
    query = torch.randn(200, 32)
    few = recall_at(policy, query, 5)
    policy.index = KeyIndex("ivf", probe=1.0)
    assert few < 0.8 < recall_at(policy, query, 5)
    policy.search = "exact"
    assert recall_at(policy, query, 5) == 1.0


def test_queries_for_which_the_index_finds_too_few_are_searched_exactly():
    pytest.importorskip("faiss")
    policy, query = policy_of(6000, "faiss", width=32), torch.randn(3, 32)
    policy.index = KeyIndex("ivf", probe=1e-9)
    policy.k = 2000  # more than the 8 clusters it looks into hold
    assert torch.equal(
        policy(query).index, exact(policy.keys, query, 2000, torch.ones(6000, dtype=torch.bool))
    )


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_faiss_does_not_depend_on_the_batch_and_ties_go_to_the_lowest(index):
    pytest.importorskip("faiss")
    policy = policy_of(6000, "faiss", width=16, index=index)
    with torch.no_grad():
        policy.keys.blocks[0][3000:].copy_(policy.keys.blocks[0][:3000])
    query = torch.randn(64, 16)
    together = policy(query)
    alone = [policy(row[None]) for row in query]
    assert torch.equal(together.index, torch.cat([a.index for a in alone]))
    assert torch.equal(together.similarity, torch.cat([a.similarity for a in alone]))
    order = torch.randperm(64)
    assert torch.equal(policy(query[order]).index, together.index[order])
    # Slot m + 3000 equals slot m: the lower is first, or there without the higher one.
    for row in together.index.tolist():
        assert all(slot - 3000 in row[: row.index(slot)] for slot in row if slot >= 3000)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.grow(5, 9),
        lambda p: p.keys.blocks[0].neg_(),
        lambda p: p.load_state_dict({k: v.clone().neg() for k, v in p.state_dict().items()}),
        lambda p: (p.restore(p.layout()), p.keys.blocks[0].normal_()),
        lambda p: p.double(),
    ],
    ids=["growth", "in place", "load", "restore", "move"],
)
def test_any_change_of_the_keys_makes_the_index_anew(change):
    pytest.importorskip("faiss")
    policy, query = policy_of(300, "faiss", blocks=3), torch.randn(9, WIDTH)
    policy.freeze_all()
    before = policy(query).index
    index = policy.index._built[3]
    assert torch.equal(policy(query).index, before) and policy.index._built[3] is index
    with torch.no_grad():
        change(policy)
    after = policy(query).index
    assert policy.index._built[3] is not index
    allowed = torch.ones(len(policy), dtype=torch.bool)
    assert after.tolist() == naive_best(policy.keys(), query, 3, allowed)


def test_a_slot_that_is_switched_off_leaves_the_index():
    pytest.importorskip("faiss")
    policy, query = policy_of(300, "faiss"), torch.randn(9, WIDTH)
    available = torch.ones(300, dtype=torch.bool)
    available[policy(query).index[:, 0]] = False
    found = policy(query, None, available).index
    assert found.tolist() == naive_best(policy.keys(), query, 3, available)


def test_an_optimiser_step_makes_index_joined_keys_and_norms_anew():
    pytest.importorskip("faiss")
    policy, query = policy_of(300, "faiss", blocks=3), torch.randn(9, WIDTH)
    policy.keys.blocks[0].requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=0.5)
    allowed = torch.ones(300, dtype=torch.bool)
    for _ in range(3):
        assert policy.eval()(query).index.tolist() == naive_best(policy.keys(), query, 3, allowed)
        policy.train()(query, task=2).loss.backward()
        optimizer.step()


def test_training_is_exact_whatever_the_search_says():
    pytest.importorskip("faiss")
    policy = policy_of(300, "faiss").train()
    policy(torch.randn(4, WIDTH), task=0)
    policy(torch.randn(4, WIDTH))
    assert policy.index._built is None


def test_auto_uses_faiss_from_the_documented_size_on(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr("cpool.policies.top_k.FAISS_FROM", 300)
    small, large = policy_of(299, "auto"), policy_of(300, "auto")
    for policy in (small, large):
        policy(torch.randn(2, WIDTH))
    assert small.index._built is None and large.index._built is not None
    never = policy_of(300, "exact")
    never(torch.randn(2, WIDTH))
    assert never.index._built is None


def test_without_the_package_faiss_names_the_extra_and_auto_stays_exact(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr("cpool.policies.top_k.FAISS_FROM", 10)
    query, allowed = torch.randn(2, WIDTH), torch.ones(50, dtype=torch.bool)
    with pytest.raises(MissingDependencyError, match=r"pip install 'continual-prompt-pool\[faiss"):
        policy_of(50, "faiss")(query)
    policy = policy_of(50, "auto")
    assert policy(query).index.tolist() == naive_best(policy.keys(), query, 3, allowed)


def test_an_index_is_neither_copied_nor_saved():
    pytest.importorskip("faiss")
    policy, query = policy_of(300, "faiss"), torch.randn(4, WIDTH)
    found = policy(query).index
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert other.index._built is None
        assert torch.equal(other(query).index, found)
    assert set(policy.state_dict()) == {"owner", "count", "past", "keys.blocks.0"}


def test_joined_frozen_keys_are_those_of_the_blocks_and_let_gradients_through():
    keys = keys_of(3, 2, 4, frozen=(0, 1))
    keys().square().sum().backward()
    assert torch.equal(keys().detach(), torch.cat([b.detach() for b in keys.blocks]))
    assert torch.allclose(keys.blocks[2].grad, 2 * keys.blocks[2].detach())
    assert keys.blocks[0].grad is None
    joined = next(keys.parts())
    assert next(keys.parts()) is joined, "frozen keys are joined once"
    with torch.no_grad():
        keys.blocks[1].mul_(2)
    assert torch.equal(keys().detach(), torch.cat([b.detach() for b in keys.blocks]))


def test_the_norms_that_the_exact_search_keeps_follow_the_keys():
    keys, query, allowed = keys_of(5, 4, frozen=(0,)), torch.randn(6, WIDTH), torch.ones(9).bool()
    for block in (0, 1):
        exact(keys, query, 1, allowed)
        with torch.no_grad():
            keys.blocks[block][2] *= 50
        assert exact(keys, query, 3, allowed).tolist() == naive_best(keys(), query, 3, allowed)


@pytest.mark.parametrize("probe", [0.0, 1.5])
def test_a_share_of_clusters_outside_of_zero_to_one_is_refused(probe):
    with pytest.raises(ConfigError, match="probe"):
        KeyIndex("ivf", probe)
