"""SAPT by its equations: the shared attention, and the reflection that keeps it."""

import math

import pytest
import torch

from cpool.errors import ConfigError
from cpool.learner import Learner
from cpool.methods import SAPT
from cpool.policies import SharedAttention
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import build, stream

GENERATOR = torch.Generator().manual_seed(1)
QUERY = torch.randn(6, 8, generator=GENERATOR)


def grown(tasks=3, **options):
    with seeded(0, "build"):
        policy = SharedAttention(8, width=3, **options)
        for task in range(tasks):
            policy.grow(1, task=task)
    return policy


def attention(policy, query):
    """Return the attention of the paper, in float64 and by loops."""
    first, second, _, norm = policy.project
    rows = []
    for q in query.double().tolist():
        inner = [sum(w * x for w, x in zip(r, q, strict=True)) for r in first.weight.tolist()]
        outer = [sum(w * x for w, x in zip(r, inner, strict=True)) for r in second.weight.tolist()]
        silu = [x / (1 + math.exp(-x)) for x in outer]
        mean = sum(silu) / 8
        variance = sum((x - mean) ** 2 for x in silu) / 8
        h = [
            (x - mean) / math.sqrt(variance + norm.eps) * g + b
            for x, g, b in zip(silu, norm.weight.tolist(), norm.bias.tolist(), strict=True)
        ]
        keys = policy.keys().tolist()
        scores = [sum(a * b for a, b in zip(h, k, strict=True)) / math.sqrt(8) for k in keys]
        total = sum(math.exp(s) for s in scores)
        rows.append([math.exp(s) / total for s in scores])
    return torch.tensor(rows, dtype=torch.float64)


def test_the_attention_by_loops():
    policy = grown()
    with torch.no_grad():
        policy.project[3].weight.normal_()
        policy.project[3].bias.normal_()
    selection = policy(QUERY)
    assert selection.index.tolist() == [[0, 1, 2]] * 6
    assert torch.allclose(selection.weight.double(), attention(policy, QUERY), atol=1e-6)
    assert policy(QUERY, task=1).index.tolist() == [[0, 1]] * 6


def test_what_is_recorded_at_the_end_of_a_task():
    policy = grown(1)
    policy.end_task(QUERY, 0)
    policy.grow(1, task=1)
    policy.end_task(2 * QUERY, 1)
    assert torch.allclose(policy.means[1], 2 * QUERY.mean(0))
    spread = [math.sqrt(sum((x - c.mean()) ** 2 for x in c) / 6) for c in QUERY.T.double()]
    assert policy.stds[0].tolist() == pytest.approx([float(s) for s in spread], rel=1e-5)
    assert policy.recorded[0].tolist() == [1.0, 0.0], "a slot made later got no attention then"
    expected = attention(policy, 2 * QUERY).mean(0)
    assert torch.allclose(policy.recorded[1].double(), expected, atol=1e-6)


def test_the_reflection_by_loops():
    policy = grown(1, reflect=0.3, replays=4)
    for task in (0, 1):
        policy.end_task((task + 1) * QUERY, task)
        policy.grow(1, task=task + 1)
    torch.manual_seed(7)
    loss = policy.train()(QUERY, task=2).loss
    torch.manual_seed(7)
    noise = torch.randn(4, 2, 8)
    expected = 0.0
    for task in (0, 1):
        for replay in range(4):
            z = policy.means[task] + noise[replay, task] * policy.stds[task]
            now = attention(policy, z[None])[0].tolist()
            for p, a in zip(policy.recorded[task].tolist(), now, strict=True):
                expected += 0.3 * p * (math.log(p) - math.log(a)) / 4 if p else 0.0
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert policy.project[0].weight.grad.abs().max() > 0
    policy.zero_grad()
    assert float(policy.eval()(QUERY, task=2).loss.detach()) == 0.0, (
        "no drawn queries outside of training"
    )


def drift(reflect):
    """Return how far the attention of the first task's queries moved while others trained."""
    with seeded(0, "build"):
        model = SAPT(length=2, width=8, reflect=reflect).build(tiny.backbone("vit"))
    learner = Learner(model, seed=0, epochs=30, lr=0.02, batch_size=6, device="cpu", quiet=True)
    tasks = list(stream("vit"))
    policy = model.prompter.branches["shared"].policy
    query = None
    for task in tasks:
        learner.fit_task(task)
        query = learner.queries(tasks[0].train) if query is None else query
    now = policy.eval()(query).weight.mean(0).detach()
    return float((now - policy.recorded[0]).abs().sum())


def test_reflection_keeps_the_attention_of_earlier_tasks():
    assert drift(5.0) < 0.5 * drift(0.0)


def test_keys_and_prompts_freeze_and_the_projection_learns_on():
    learner, seen = build("sapt", "vit"), []
    for task in stream("vit"):
        learner.fit_task(task)
        branch = learner.model.prompter.branches["shared"]
        assert not any(p.requires_grad for p in (*branch.pool.blocks, *branch.policy.keys.blocks))
        assert all(p.requires_grad for p in branch.policy.project.parameters())
        seen.append(branch.policy.project[0].weight.detach().clone())
    assert not torch.equal(seen[1], seen[2])


def test_merged_slots_get_the_attention_of_their_parts():
    policy = grown(1)
    for task in (0, 1, 2):
        policy.end_task(QUERY, task)
        policy.grow(1, task=task + 1)
    before = policy.recorded.clone()
    policy.recombine([[{0: 0.5, 1: 0.5}], [{2: 1.0}, {3: 1.0}]])
    assert torch.allclose(policy.recorded[:, 0], before[:, 0] + before[:, 1])
    assert torch.allclose(policy.recorded.sum(1), torch.ones(3))
    assert policy(QUERY).weight.shape == (6, 3)


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="replays at least 1"):
        SAPT(replays=0)
    with pytest.raises(ConfigError, match="reflect=-1"):
        SharedAttention(8, reflect=-1.0)
