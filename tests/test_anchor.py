"""An anchor beside the competing classes: its loss, who may have one, and what it is for."""

import numpy as np
import pytest
import torch

from cpool.errors import ConfigError
from cpool.learner import Learner
from cpool.methods import L2P, MVP, NCM, LinearHead, PromptTuning
from cpool.seeding import seeded
from cpool.settings import TrainSettings
from cpool.streams import class_incremental
from tests import tiny

ANCHOR = 2.5


def trained(mask: str = "task", anchor: float = ANCHOR):
    with seeded(0):
        model = L2P(pool_size=3, top_k=1, length=2, pull=0.0).build(tiny.backbone("vit"))
        model.compete(TrainSettings(mask=mask, anchor=anchor))
        model.begin_task([0, 1])
        model.begin_task([2, 3])
    return model.train()


@pytest.mark.parametrize("mask", ["task", "seen"])
def test_the_loss_is_that_of_the_equation(mask):
    model, labels = trained(mask), [2, 3, 3, 2]
    batch = {**tiny.batch("vit", 4), "labels": torch.tensor(labels)}
    out = model(batch, task=1)
    (gradient,) = torch.autograd.grad(out.loss, [out.features])
    features = out.features.detach().double().requires_grad_()
    weight = torch.cat([w.detach() for w in model.head.weights]).double()
    wanted = 0
    for row, label in enumerate(labels):
        scores = [(weight[c] @ features[row]).exp() for c in range(4)]
        competing = scores[2:] if mask == "task" else scores
        wanted = wanted - (scores[label] / (sum(competing) + ANCHOR)).log() / 4
    wanted.backward()
    assert torch.allclose(out.loss.double(), wanted, atol=1e-6)
    assert torch.allclose(gradient.double(), features.grad, atol=1e-7)


def test_it_is_for_training_alone_and_0_is_without():
    batch = {**tiny.batch("vit", 4), "labels": torch.tensor([2, 3, 3, 2])}
    with_it, without = trained(), trained(anchor=0.0)
    losses = [float(model(batch, task=1).loss.detach()) for model in (with_it, without)]
    assert losses[0] > losses[1] + 0.1
    out, plain = with_it.eval()(batch, task=1), without.eval()(batch, task=1)
    assert torch.equal(out.loss, plain.loss) and torch.equal(out.logits, plain.logits)
    assert out.logits.shape == (4, 4)


def test_tasks_of_one_class_can_be_learned():
    """Without a reference one class alone has nothing to be told from."""
    y = np.repeat(np.arange(3), 8)
    x = np.full((24, 12, 12, 3), 40, dtype=np.uint8)
    x[y == 1, :6], x[y == 2, :, :6] = 220, 220
    stream = class_incremental(x, y, x, y, tasks=[[0], [1], [2]], validation=0)
    with seeded(0):
        model = LinearHead().build(tiny.new("vit", normalize=True))
    run = Learner(model, epochs=60, lr=0.05, batch_size=8, anchor=1.0, device="cpu", quiet=True)
    matrix = run.run(stream)
    assert matrix.summary()["average_accuracy"] > 0.9


def test_who_scores_words_has_none():
    model = PromptTuning(length=2).build(tiny.backbone("llama"))
    with pytest.raises(ConfigError, match="anchor"):
        Learner(model, anchor=1.0, quiet=True)
    assert model.anchor == 0.0
    with pytest.raises(ConfigError, match="anchor at least 0"):
        TrainSettings(anchor=-1.0)


def test_methods_start_with_their_own_competition():
    sizes = {"general_layers": (0,), "expert_layers": (1,)}
    assert MVP(**sizes).build(tiny.backbone("vit")).mask == "seen"
    assert NCM().build(tiny.backbone("vit")).mask == "task"
    assert TrainSettings().anchor == L2P().settings.anchor == 0.0
