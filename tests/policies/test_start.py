"""Collapse of a pool, and what helps: diversified selection, keys that start from queries."""

import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn import functional as F

from cpool.policies import Mixture, TopK

WIDTH = 16


def clusters(groups, n=40, seed=0):
    """Queries in some narrow groups, all in one corner, as features of one model are."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1 + 0.5 * torch.randn(groups, WIDTH, generator=generator)
    rows = centres.repeat_interleave(n, 0)
    return rows + 0.05 * torch.randn(rows.shape, generator=generator)


def entropy(index, slots):
    """Entropy of the usage in nats, by hand."""
    counts = [int((index == slot).sum()) for slot in range(slots)]
    total = sum(counts)
    return -sum(c / total * torch.log(torch.tensor(c / total)).item() for c in counts if c)


def train_keys(policy, query, task=0, steps=30):
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        policy(query, task=task).loss.backward()
        optimizer.step()


def test_diversified_selection_is_equation_4_by_a_loop():
    policy, query = TopK(WIDTH, 2, diversify=True), torch.randn(20, WIDTH)
    policy.grow(7)
    with torch.no_grad():
        policy(query, task=0)
    policy.next_task()
    past = policy.past.double()
    chosen = policy(query, task=1).index.tolist()
    for row, got in zip(query.double(), chosen, strict=True):
        score = []
        for slot, key in enumerate(policy.keys().detach().double()):
            cosine = float(row @ key / row.norm() / key.norm())
            score.append(((1 - cosine) * float(past[slot] / past.sum()), slot))
        assert got == [slot for _, slot in sorted(score)[:2]]


def test_diversified_selection_raises_the_entropy_of_usage_where_keys_collapse():
    usage = {}
    for diversify in (False, True):
        torch.manual_seed(3)
        policy = TopK(WIDTH, 1, diversify=diversify)
        policy.grow(8)
        used = []
        for task in range(6):
            policy.next_task()
            query = clusters(3, seed=task)
            train_keys(policy, query, task, steps=5)
            used.append(policy(query, task=task).index)
        usage[diversify] = entropy(torch.cat(used), 8)
    assert usage[False] < 0.7, "without it the pool collapses, or the test shows nothing"
    assert usage[True] > usage[False] + 0.5


def test_keys_from_queries_prevent_the_collapse():
    usage, query = {}, clusters(6)
    for start in ("random", "queries"):
        torch.manual_seed(3)
        policy = TopK(WIDTH, 1, start=start)
        policy.grow(6)
        if policy.needs_start:
            policy.start_task(query, 0)
        train_keys(policy, query)
        usage[start] = entropy(policy.eval()(query).index, 6)
    assert usage["random"] < 1.0
    assert usage["queries"] > 1.7, "six groups, six keys: ln 6 = 1.79"


def test_keys_start_at_the_centres_of_k_means():
    policy, query = TopK(WIDTH, start="queries", seed=4), clusters(4)
    policy.grow(3)
    policy.start_task(query, 0)
    rows = F.normalize(query, dim=1).double().numpy()
    centres = torch.tensor(KMeans(3, random_state=4, n_init=3).fit(rows).cluster_centers_)
    expected = (centres / centres.norm(dim=1, keepdim=True)).float()
    assert torch.allclose(policy.keys().detach(), expected, atol=1e-6)


@pytest.mark.parametrize("make", [TopK, Mixture])
def test_only_the_keys_of_the_task_that_train_start(make):
    policy = make(WIDTH, start="queries")
    policy.grow(2, task=0)
    policy.freeze_all()
    policy.grow(1, task=1)
    policy.grow(2, task=2)
    before = [block.clone() for block in policy.keys.blocks]
    policy.start_task(clusters(2), 2)
    assert torch.equal(policy.keys.blocks[0], before[0])
    assert torch.equal(policy.keys.blocks[1], before[1])
    assert torch.allclose(policy.keys.blocks[2].norm(dim=1), torch.ones(2))
    assert policy.keys.blocks[2].requires_grad
    policy.start_task(clusters(2, seed=1), 0)
    assert torch.equal(policy.keys.blocks[0], before[0]), "frozen"


def test_shared_keys_start_once_and_few_queries_leave_the_rest():
    policy = TopK(WIDTH, start="queries")
    policy.grow(5)
    before = policy.keys().detach().clone()
    policy.start_task(torch.ones(3, WIDTH), 1)
    assert torch.equal(policy.keys(), before), "shared keys are set in task 0 only"
    policy.start_task(torch.eye(WIDTH)[[0, 1, 0]], 0)
    moved = (policy.keys() != before).any(dim=1)
    assert moved.tolist() == [True, True, False, False, False]


def test_without_the_option_nothing_is_asked_for_and_nothing_moves():
    policy = TopK(WIDTH)
    policy.grow(2, task=0)
    before = policy.keys().detach().clone()
    policy.start_task(clusters(2), 0)
    assert not policy.needs_start and torch.equal(policy.keys(), before)
