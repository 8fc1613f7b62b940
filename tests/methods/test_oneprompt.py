"""OnePrompt: one prefix for every sample and task, and no query."""

from itertools import pairwise

import pytest
import torch

from cpool.errors import ConfigError
from cpool.inject import encode
from cpool.methods import OnePrompt
from cpool.prompter import Prompts
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import build, stream


def test_the_prefix_of_each_layer_is_what_the_equations_say():
    with seeded(0, "build"):
        model = OnePrompt((0,), (1, 2), early_length=2, late_length=3).build(tiny.backbone("vit"))
    model.begin_task([0, 1])
    early, late = (branch.pool for branch in model.prompter)
    for pool in (early, late):
        pool.mark_trained(torch.tensor([[0]]))
    assert early.values().shape == (1, 2, 2, 32) and late.values().shape == (1, 4, 3, 32)
    assert early.values().min() >= 0 and early.values().max() <= 1

    def heads(rows):  # [N W] → [1 heads N width]: feature 8h + j belongs to head h
        return torch.stack([rows[:, 8 * h : 8 * h + 8] for h in range(4)])[None]

    sites = [early.values()[0, 0:2], late.values()[0, 0:2], late.values()[0, 2:4]]
    layers = {layer: (heads(key), heads(value)) for layer, (key, value) in enumerate(sites)}
    batch = tiny.batch("vit", 3)
    expected = encode(model.backbone, batch, Prompts(None, layers, torch.zeros(()), {}))
    features = model.eval()(batch).features
    assert torch.allclose(features, expected.hidden_states[-1][:, 0], atol=1e-5)


def test_there_is_no_query_pass(monkeypatch):
    learner = build("oneprompt", "vit")
    assert not learner.model.needs_query

    def refuse(*args):
        raise AssertionError("a query was computed")

    monkeypatch.setattr(type(learner.model.backbone), "query", refuse)
    learner.fit_task(stream("vit")[0])
    learner.evaluate(stream("vit")[:1])


def test_the_prefix_goes_on_training_in_every_task():
    learner, seen = build("oneprompt", "vit"), []
    for task in stream("vit"):
        learner.fit_task(task)
        seen.append([b.pool.values().detach().clone() for b in learner.model.prompter])
    for before, after in pairwise(seen):
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [len(b.pool) for b in learner.model.prompter] == [1, 1]


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="late_layers with a layer"):
        OnePrompt((), ())
    with pytest.raises(ConfigError, match="early_layers with each layer once"):
        OnePrompt((0, 0))
