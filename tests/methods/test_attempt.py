"""ATTEMPT by its equations: the attention, the prompt it makes, and what stays."""

import math

import numpy as np
import pytest
import torch

from cpool.errors import ConfigError, PoolError
from cpool.initialisers import normal
from cpool.learner import Learner
from cpool.methods import ATTEMPT
from cpool.policies import AttendedSources
from cpool.pool import PromptPool
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream
from tests.methods.test_language_methods import TEMPLATE, TEXTS, learner, scores

QUERY = torch.randn(6, 7, generator=torch.Generator().manual_seed(1))


def grown(tasks=3, wide=5):
    with seeded(0, "build"):
        pool = PromptPool(1, 4, wide, normal(2.0))
        policy = AttendedSources(7, pool, width=3)
        for task in range(tasks):
            pool.grow(1, task=task)
            policy.grow(1, task=task)
    for network in policy.networks:
        torch.nn.init.normal_(network[3].weight, std=3.0)
        torch.nn.init.normal_(network[3].bias)
    return pool, policy


def attention(pool, policy, q, own):
    """Return a_j, j ≤ own, of one query in float64, by loops."""
    down, _, up, norm = policy.networks[own - 1]
    q = q.double()
    inner = [sum(w * x for w, x in zip(row, q, strict=True)) for row in down.weight.double()]
    silu = [x / (1 + torch.exp(-x)) for x in inner]
    outer = [sum(w * x for w, x in zip(row, silu, strict=True)) for row in up.weight.double()]
    mean = sum(outer) / len(outer)
    deviation = torch.sqrt(sum((x - mean) ** 2 for x in outer) / len(outer) + norm.eps)
    gains = zip(outer, norm.weight.double(), norm.bias.double(), strict=True)
    h = [(x - mean) / deviation * g + b for x, g, b in gains]
    found = []
    for slot in range(own + 1):
        tokens = pool.blocks[slot][0, 0].double()
        key = [max(tokens[:, w]) for w in range(len(h))]
        found.append(sum(x * k for x, k in zip(h, key, strict=True)) / (math.e * len(h)))
    top = [torch.exp(score) for score in found]
    return torch.stack([t / sum(top) for t in top])


def naive(pool, policy, q, own):
    """P_k + Σ_{j≤k} a_j P_j of one query."""
    made = pool.blocks[own][0, 0].double()
    if not own:
        return made
    for slot, a in enumerate(attention(pool, policy, q, own)):
        made = made + a * pool.blocks[slot][0, 0].double()
    return made


def test_the_prompt_is_the_equation_forward_and_gradient():
    pool, policy = grown()
    selection = policy(QUERY, task=2)
    assert (selection.index[:, 0] == 2).all()
    got = pool.gather(selection)[:, 0]
    wanted = torch.stack([naive(pool, policy, q, 2) for q in QUERY])
    torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)
    assert wanted.std(dim=0).max() > 0.05, "the attention depends on the sample"
    parameters = [*pool.blocks, *policy.networks[1].parameters()]
    goal = torch.randn_like(got)
    ours = torch.autograd.grad((got * goal).sum(), parameters)
    theirs = torch.autograd.grad((wanted * goal).sum(), parameters)
    for one, two in zip(ours, theirs, strict=True):
        assert two.abs().max() > 0
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_at_test_each_sample_gets_the_sources_of_its_own_task():
    pool, policy = grown()
    centres = 5 * torch.eye(7)[:3]
    for task in range(3):
        policy.end_task(centres[task] + 0.1 * torch.randn(9, 7), task)
    query = centres[[2, 0, 1, 0, 2]]
    selection = policy.eval()(query)
    assert selection.index[:, 0].tolist() == [2, 0, 1, 0, 2]
    got = pool.gather(selection)[:, 0].double()
    for row, own in enumerate([2, 0, 1, 0, 2]):
        wanted = naive(pool, policy, query[row], own)
        torch.testing.assert_close(got[row], wanted, atol=1e-5, rtol=1e-5)
    told = policy(query, task=1)
    assert (told.index[:, 0] == 1).all() and not told.weight[:, 3].any()
    nearest = -policy.router.distance(query).amin(dim=1).float()
    torch.testing.assert_close(policy.nearness(query), nearest)


def test_queries_and_networks_may_have_another_precision():
    pool, policy = grown()
    for task in range(3):
        policy.end_task(QUERY + task, task)
    wanted = policy.eval()(QUERY, task=2).weight
    pool.to(torch.bfloat16), policy.to(torch.bfloat16)
    got = policy(QUERY, task=2).weight
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, atol=0.05, rtol=0.05)


def test_a_disabled_source_takes_no_part():
    _, policy = grown()
    available = torch.tensor([False, True, True])
    selection = policy(QUERY, task=2, available=available)
    assert selection.index.tolist() == [[2, 1, 2]] * 6
    assert torch.allclose(selection.weight[:, 1:].sum(dim=1), torch.ones(6))
    alone = policy(QUERY, task=1, available=available)
    assert not alone.weight[:, 1:].any()


def test_the_model_computes_its_equation():
    run, tasks = (
        learner(ATTEMPT(length=3, labels=LABELS, template=TEMPLATE, width=4)),
        stream("llama"),
    )
    run.fit_task(tasks[0])
    model = run.model
    model.begin_task(tasks[1].classes)
    branch = model.prompter.branches["prompt"]
    pool, policy = branch.pool, branch.policy
    batch = model.prepare(TEXTS)
    names = tuple(LABELS[c] for c in model.classes)
    expected = [
        scores(f"my {text} now", names, naive(pool, policy, q, 1).float())
        for text, q in zip(TEXTS, batch["query"], strict=True)
    ]
    got = model(batch, task=1).logits
    torch.testing.assert_close(got, torch.stack(expected), atol=2e-5, rtol=1e-5)
    names = [name.split(".", 3)[3] for name, _ in model.named_parameters()]
    assert names[0] == "pool.blocks.1"
    assert all(name.startswith("policy.networks.0") for name in names[1:]) and len(names) == 5


def test_a_finished_task_stays_and_is_the_same_after_loading(tmp_path):
    run, tasks = (
        learner(ATTEMPT(length=2, labels=LABELS, template=TEMPLATE, width=4)),
        stream("llama"),
    )
    told = []
    for task in tasks:
        run.fit_task(task)
        told.append(run.predictor.predict(task.test, task.index).probabilities)
    for task, before in zip(tasks, told, strict=True):
        again = run.predictor.predict(task.test, task.index).probabilities
        np.testing.assert_allclose(again[:, : before.shape[1]], before, atol=1e-6)
    run.save(tmp_path)
    loaded = Learner.load(tmp_path, tiny.backbone("llama"), device="cpu", quiet=True)
    assert np.array_equal(loaded.predict_proba(TEXTS), run.predict_proba(TEXTS))


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="width at least 1"):
        ATTEMPT(width=0)
    with pytest.raises(ConfigError, match="a width of at least 1"):
        AttendedSources(7, PromptPool(1, 2, 3), width=0)
    with pytest.raises(PoolError, match="a pool at one site"):
        AttendedSources(7, PromptPool(2, 2, 3))
    _, policy = grown()
    with pytest.raises(PoolError, match="one slot for each task"):
        policy.grow(2, task=3)
    with pytest.raises(PoolError, match="drop and combine"):
        policy.check_recombine()
