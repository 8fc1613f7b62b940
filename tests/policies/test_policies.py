"""Policies: who is chosen, per sample, with ties, tasks, frozen keys and golden numbers."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.cluster import KMeans

from cpool.errors import PoolError
from cpool.policies import Everything, NearestCentroid, SoftAttention, TopK, UpToTask
from cpool.policies.soft_attention import orthogonality
from cpool.policies.top_k import largest


def top_k(k=2, slots=6, width=5, **options):
    policy = TopK(width, k, **options)
    policy.grow(slots)
    return policy


def naive_cosine(query, key):
    return sum(q * k for q, k in zip(query, key, strict=True)) / (
        sum(q * q for q in query) ** 0.5 * sum(k * k for k in key) ** 0.5
    )


def test_top_k_equals_a_loop_in_float64():
    policy, query = top_k(pull=0.7), torch.randn(7, 5)
    chosen = policy(query, task=0)
    keys, rows = policy.keys().detach().double().tolist(), query.double().tolist()
    loss = 0.0
    for b, row in enumerate(rows):
        cosines = [naive_cosine(row, key) for key in keys]
        best = sorted(range(6), key=lambda m: -cosines[m])[:2]
        assert chosen.index[b].tolist() == best
        loss += sum(1 - cosines[m] for m in best)
    assert float(chosen.loss.detach()) == pytest.approx(0.7 * loss / 7, abs=1e-6)


def test_ties_go_to_the_lowest_slot_number():
    assert largest(torch.tensor([[1.0, 2.0, 2.0, 2.0]]), 2).tolist() == [[1, 2]]
    policy = top_k(k=3)
    with torch.no_grad():
        policy.keys.blocks[0].copy_(torch.ones(6, 5))
    assert policy(torch.ones(2, 5)).index.tolist() == [[0, 1, 2]] * 2


def test_a_selection_does_not_depend_on_the_batch():
    """Fault 1 of the public codes: the batch's majority chooses for all, at test too."""
    policy, query = top_k().eval(), torch.randn(40, 5)
    together = policy(query).index
    alone = torch.cat([policy(row[None]).index for row in query])
    assert torch.equal(together, alone)
    shuffled = torch.randperm(40)
    assert torch.equal(policy(query[shuffled]).index, together[shuffled])


def test_unavailable_slots_are_never_chosen():
    policy, available = top_k(k=3).eval(), torch.tensor([0, 1, 0, 0, 1, 0], dtype=torch.bool)
    assert set(policy(torch.randn(50, 5), None, available).index.flatten().tolist()) == {1, 4}
    with pytest.raises(PoolError, match="enabled and may be chosen"):
        policy(torch.randn(2, 5), None, torch.zeros(6, dtype=torch.bool))


def test_in_training_the_own_task_slots_only_and_at_test_all():
    policy = TopK(5, 1, own_task=True)
    policy.grow(2, task=0)
    policy.grow(2, task=1)
    query = torch.randn(60, 5)
    assert set(policy(query, task=1).index.flatten().tolist()) <= {2, 3}
    policy.eval()
    assert len(set(policy(query).index.flatten().tolist())) > 2


def test_diversified_selection_uses_the_past_only():
    policy, query = top_k(k=1, diversify=True), torch.ones(4, 5)
    with torch.no_grad():
        policy.keys.blocks[0].copy_(-torch.eye(6)[:, :5] + 0.9)
    first = policy(query, task=0).index
    assert torch.equal(policy(query, task=0).index, first), "no past yet, so plain top-k"
    policy.next_task()
    # argmin (1 − γ)·h: a slot never used has h = 0, and the lowest such slot wins.
    used = set(first.flatten().tolist())
    expected = min(set(range(6)) - used)
    assert set(policy(query, task=1).index.flatten().tolist()) == {expected}
    policy.eval()
    assert torch.equal(policy(query).index, first), "at test plain top-k"


def test_frozen_keys_do_not_move_and_new_ones_do():
    policy = TopK(5, 2)
    policy.grow(3, task=0)
    policy.freeze_all()
    policy.grow(3, task=1)
    before = policy.keys.blocks[0].clone()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        policy(torch.randn(30, 5), task=1).loss.backward()
        optimizer.step()
    assert torch.equal(policy.keys.blocks[0], before)
    assert policy.keys.blocks[1].grad.abs().sum() > 0


def test_soft_attention_agrees_with_coda(golden):
    """alpha, and with it the assembled prompts, of CODA-Prompt's own code, layer by layer."""
    file = load_file(golden / "coda.safetensors")
    for layer in range(5):
        policy = SoftAttention(32, penalty=0.1)
        policy.grow(6)
        with torch.no_grad():
            policy.keys.blocks[0].copy_(file[f"K.{layer}"][:6])
            policy.attention.blocks[0].copy_(file[f"A.{layer}"][:6])
        chosen = policy(file["query"], task=1)
        assert torch.allclose(chosen.weight, file["alpha"][layer], atol=1e-5)
        penalties = file["ortho_penalty_KAP"][layer]
        assert float(chosen.loss.detach()) == pytest.approx(
            0.1 * float(penalties[:2].sum()), rel=1e-5, abs=1e-5
        )
        values = file[f"P.{layer}"][:6].flatten(1)
        # float32 sums of this size differ between CPUs by more than 1e-5
        assert float(orthogonality(values)) == pytest.approx(float(penalties[2]), rel=1e-5)


def test_nearest_centroid_agrees_with_s_prompts(golden):
    file = load_file(golden / "sprompts.safetensors")
    policy = NearestCentroid(32)
    for task in range(3):
        policy.grow(1, task=task)
    policy.centroids.copy_(file["keys"])
    policy.fitted[:] = True
    policy.eval()
    query = file["query_normalised"]
    assert torch.allclose(policy.distance(query), file["distance_l1"], atol=1e-5)
    assert torch.equal(policy(query).index[:, 0], file["selection"].long())
    euclidean = NearestCentroid(32, metric="l2")
    euclidean.restore(policy.layout())
    euclidean.load_state_dict(policy.state_dict())
    squared = euclidean.distance(query).square()
    assert torch.allclose(squared, file["distance_l2_squared_not_used"], atol=1e-5)


def test_centroids_are_those_of_k_means_and_slots_without_are_skipped():
    rows = torch.randn(80, 4)
    policy = NearestCentroid(4, centroids=3, normalize=False, metric="l2")
    policy.grow(1, task=0)
    policy.end_task(rows, 0)
    fitted = KMeans(3, random_state=0, n_init=10).fit(rows.double().numpy()).cluster_centers_
    assert np.allclose(np.sort(policy.centroids[0].numpy(), 0), np.sort(fitted, 0), atol=1e-5)
    policy.grow(1, task=1)
    policy.eval()
    assert policy(torch.full((3, 4), 100.0)).index.tolist() == [[0]] * 3
    assert policy.train()(rows[:2], task=1).index.tolist() == [[1]] * 2


def test_fewer_samples_than_centroids():
    policy = NearestCentroid(4, centroids=5, normalize=False)
    policy.grow(1, task=0)
    policy.end_task(torch.eye(4)[:2], 0)
    assert policy.centroids[0].unique(dim=0).shape[0] == 2


def test_everything_needs_no_query():
    policy = Everything()
    policy.grow(2)
    policy.grow(1, task=1)
    assert not policy.needs_query
    assert policy(None).index.tolist() == policy(None, 0).index.tolist() == [[0, 1, 2]]
    assert policy(None, None, torch.tensor([True, False, True])).index.tolist() == [[0, 2]]
    newest = UpToTask()
    newest.grow(3)
    assert newest(None).index.tolist() == [[2, 1, 0]]


@pytest.mark.parametrize(
    "make",
    [lambda: TopK(5, 2), lambda: SoftAttention(5), lambda: NearestCentroid(5), Everything],
)
def test_layout_and_state_make_the_same_policy_again(make):
    policy = make()
    policy.grow(2, task=0)
    policy.end_task(torch.randn(20, 5), 0)
    policy.freeze_all()
    policy.grow(3, task=1)
    other = make()
    other.restore(policy.layout())
    other.load_state_dict(policy.state_dict())
    query = torch.randn(9, 5)
    a, b = policy.eval()(query), other.eval()(query)
    assert torch.equal(a.index, b.index)
    assert [p.requires_grad for p in policy.parameters()] == [
        p.requires_grad for p in other.parameters()
    ]


def test_top_k_below_one_is_refused():
    with pytest.raises(PoolError, match="top-k of at least 1"):
        TopK(5, 0)
