"""MoCL by its equations: prompts of all tasks so far, weighted by cosine."""

import math

import pytest
import torch

from cpool.errors import ConfigError
from cpool.learner import Learner
from cpool.methods import MoCLPrompt
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import stream


def made(tasks=3, **options):
    with seeded(0, "build"):
        model = MoCLPrompt(length=2, start="random", **options).build(tiny.backbone("vit"))
        for task in range(tasks):
            model.begin_task([2 * task, 2 * task + 1])
    branch = model.prompter.branches["tasks"]
    branch.pool.mark_trained(torch.arange(tasks)[None])
    return model, branch


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


@pytest.mark.parametrize("normalise", ["none", "softmax"])
def test_the_composed_prompt_and_the_matching_loss_by_loops(normalise):
    model, branch = made(site="embedding", normalise=normalise, temperature=0.5, pull=0.7)
    query = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    model.train()
    prompts = model.prompter(query, 2)
    values = branch.pool.values()[:, 0].detach().double()
    vectors = branch.policy.keys().detach().double().tolist()
    pull = 0.0
    for b, q in enumerate(query.double().tolist()):
        alpha = [cosine(q, v) for v in vectors]
        pull += 0.7 * (1 - alpha[2]) / 4
        if normalise == "softmax":
            total = sum(math.exp(a / 0.5) for a in alpha)
            alpha = [math.exp(a / 0.5) / total for a in alpha]
        expected = sum(a * value for a, value in zip(alpha, values, strict=True))
        assert torch.allclose(prompts.tokens[b].double(), expected, atol=1e-5)
    assert float(prompts.loss.detach()) == pytest.approx(pull, rel=1e-5)


def test_only_the_newest_prompt_and_vector_learn():
    model, branch = made()
    batch = {**tiny.batch("vit", 4), "labels": torch.tensor([4, 5, 4, 5])}
    model.train()(batch, task=2).loss.backward()
    for blocks in (branch.pool.blocks, branch.policy.keys.blocks):
        assert blocks[0].grad is None and blocks[1].grad is None
        assert blocks[2].grad.abs().max() > 0


def test_at_test_later_tasks_take_part_unless_the_task_is_told():
    model, _ = made()
    batch = tiny.batch("vit", 3)
    assert model.eval()(batch).selections["tasks"].index.tolist() == [[0, 1, 2]] * 3
    assert model(batch, task=1).selections["tasks"].index.tolist() == [[0, 1]] * 3


@pytest.mark.parametrize("start", ["random", "queries"])
def test_task_vectors_are_drawn_to_the_queries_of_their_task(start):
    with seeded(0, "build"):
        model = MoCLPrompt(length=2, start=start, pull=5.0).build(tiny.backbone("vit"))
    learner = Learner(model, epochs=40, lr=0.05, batch_size=6, device="cpu", quiet=True)
    policy = model.prompter.branches["tasks"].policy
    for task in stream("vit"):
        learner.fit_task(task)
        mean = torch.nn.functional.normalize(learner.queries(task.train), dim=1).mean(dim=0)
        # No vector of norm 1 matches better than the mean's direction.
        assert policy.vectors()[task.index] @ mean > 0.95 * mean.norm()


def test_task_vectors_start_at_the_centre_of_their_queries_or_anywhere():
    batch = {**tiny.batch("vit", 6), "labels": torch.tensor([0, 1] * 3)}
    for start in ("queries", "random"):
        model = MoCLPrompt(length=2, start=start).build(tiny.backbone("vit"))
        model.begin_task([0, 1], batches=[batch])
        unit = torch.nn.functional.normalize(model.query(batch), dim=1).mean(dim=0)
        centre = unit / unit.norm()
        vector = model.prompter.branches["tasks"].policy.keys().detach()[0]
        assert torch.allclose(vector, centre, atol=1e-5) == (start == "queries")


def test_prefixes_on_the_named_layers():
    model, branch = made(layers=(1,))
    assert list(model.prompter(torch.randn(1, 32)).layers) == [1]
    assert branch.pool.sites == 2
    assert made()[1].pool.sites == 6


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="layers with at least one"):
        MoCLPrompt(layers=())
    with pytest.raises(ConfigError, match="pull at least 0"):
        MoCLPrompt(pull=-1.0)
