"""PromptPoolPlugin on Naive: every method learns what it learns with cpool's own learner."""

import numpy as np
import pytest
import torch
from torch import nn

from tests import tiny
from tests.common.rows import LANGUAGE, ROWS
from tests.common.tasks import stream
from tests.interop.strategies.runs import benchmark, naive, own

KIND = {row: "llama" if row in LANGUAGE else "vit" for row in ROWS}
# What they keep of a step, or draw after reading texts, depends on the order of samples, which is
# Avalanche's here; they are trained, but cannot be compared.
ORDERED = ("der", "der_plus_plus", "multitask_prompt_taught")
# It decides between candidates that are nearly as good here: the last bits turn the decision.
ORDERED += ("prompt_ridge_forgettable",)


@pytest.mark.parametrize("row", [r for r in ROWS if r != "joint"])
def test_every_method_learns_what_its_learner_learns(row):
    kind = KIND[row]
    strategy, learner, made = naive(row, kind), own(row, kind), benchmark(kind)
    backbone = {k: v.clone() for k, v in tiny.backbone(kind).state_dict().items()}
    for experience, task in zip(made.train_stream, stream(kind), strict=True):
        frozen = _frozen(strategy.model)
        strategy.train(experience, reset_optimizer_state=True, shuffle=False)
        learner.fit_task(task)
        now = dict(nn.Module.named_parameters(strategy.model))
        assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert all(torch.equal(v, backbone[k]) for k, v in tiny.backbone(kind).state_dict().items())
    for task, test in zip(stream(kind), made.test_stream, strict=True):
        wanted = learner.explain(task.test.x)
        x = torch.stack([sample[0] for sample in test.dataset])
        strategy.model.eval()
        with torch.no_grad():
            logits = strategy.model(x)
            chosen = strategy.model.prompted(strategy.model.batch(x)).selections
        columns = learner.classes
        got = logits[:, columns].softmax(dim=1).numpy()
        np.testing.assert_allclose(got.sum(axis=1), 1.0, atol=1e-5)
        if row not in ORDERED:
            np.testing.assert_allclose(got, wanted.probabilities, atol=5e-4)
            best = np.sort(wanted.probabilities, axis=1)
            clear = best[:, -1] - best[:, -2] > 2e-3
            said = logits.argmax(dim=1).numpy()
            assert np.array_equal(said[clear], wanted.labels[clear])
            y = np.asarray(task.test.y)
            assert (said == y).mean() == pytest.approx((wanted.labels == y).mean(), abs=1e-6)
            for branch, slots in wanted.slots.items():
                selection = chosen[branch]
                mine = np.broadcast_to(selection.index.numpy(), slots.shape)
                assert np.array_equal(np.sort(mine, axis=1), np.sort(slots, axis=1))


def _frozen(model):
    everything = dict(nn.Module.named_parameters(model))
    return {n: p.detach().clone() for n, p in everything.items() if not p.requires_grad}
