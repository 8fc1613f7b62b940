"""The range test of learning rates: what it does to a model, what it suggests, what it refuses."""

import math

import numpy as np
import pytest
import torch

from cpool.data import as_completions
from cpool.errors import ConfigError, DataError, StateError
from cpool.methods import L2P, NCM, LinearHead, PromptTuning
from cpool.optimise import make_optimizer
from cpool.rate_finder import find_rate
from cpool.seeding import seeded
from cpool.settings import TrainSettings
from cpool.streams import class_incremental
from tests import tiny

LABELS = ("red", "green bird")


def data(kind: str, rows: int = 8):
    return tiny.raw(kind, rows), np.arange(rows) % 2


def test_losses_are_those_of_steps_at_rising_rates():
    """Against a loop of one's own on the same batches, in which the rate is set by hand."""
    x, y = data("vit")
    one = TrainSettings(batch_size=8, optimizer="sgd", momentum=0.0)
    found = find_rate(LinearHead(), tiny.backbone("vit"), (x, y), train=one, high=0.5, steps=22)
    assert found.rates[0] == pytest.approx(1e-5)
    assert found.rates[-1] == pytest.approx(0.5)
    steps = np.diff(np.log(found.rates))
    assert np.allclose(steps, steps[0])
    with seeded(0, "build"):
        model = LinearHead().build(tiny.backbone("vit"))
    with seeded(0, "task", 0):
        model.begin_task([0, 1])
    model.train()
    batch = {**model.prepare(x), "labels": torch.as_tensor(y)}
    optimizer = make_optimizer(model, one)
    for rate, expected in zip(found.rates, found.losses, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(batch, task=0).loss
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), 1.0)
        optimizer.step()
    # The running mean is of the losses so far, weighted by 0.9 to the power of their age.
    weights = 0.9 ** np.arange(len(found.losses))[::-1]
    assert found.smoothed[-1] == pytest.approx(np.average(found.losses, weights=weights))


def test_it_ends_where_the_loss_explodes():
    found = find_rate(
        LinearHead(),
        tiny.backbone("vit"),
        data("vit"),
        train=TrainSettings(batch_size=4, optimizer="sgd", momentum=0.0, clip_norm=0.0),
        high=1e6,
        steps=40,
    )
    assert len(found.losses) < 40
    assert found.smoothed[-1] > 4 * found.smoothed[10:].min() or not math.isfinite(found.losses[-1])
    assert found.suggestion < found.rates[-1]


def test_the_suggestion_is_a_tenth_of_where_the_loss_is_lowest():
    found = find_rate(LinearHead(), tiny.backbone("vit"), data("vit"), high=10.0, steps=30)
    lowest = 10 + found.smoothed[10:].argmin()
    assert found.suggestion == pytest.approx(found.rates[lowest] / 10)
    few = find_rate(LinearHead(), tiny.backbone("vit"), data("vit"), high=1e-3, steps=20)
    assert few.suggestion == pytest.approx(few.rates[10 + few.smoothed[10:].argmin()] / 10)
    low = find_rate(LinearHead(), tiny.backbone("vit"), data("vit"), low=5.0, high=10.0, steps=20)
    assert low.suggestion == 5.0


def test_a_fault_of_the_data_is_no_loss_that_diverged():
    rows = as_completions(["the cat", "a dog"] * 2, ["sleeps"] * 3 + ["red " * 200])
    method = PromptTuning(length=2, template="{{ text }}", answers="completions")
    with pytest.raises(DataError, match="never cut"):
        find_rate(
            method,
            tiny.backbone("gpt2"),
            rows,
            train=TrainSettings(batch_size=1),
            steps=20,
        )


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (L2P(pool_size=4, top_k=2, length=2), "vit"),
        (PromptTuning(length=2, labels=LABELS), "llama"),
    ],
)
def test_the_same_seed_gives_the_same_curve_and_the_backbone_stays(method, kind):
    backbone = tiny.backbone(kind)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    curves = [find_rate(method, backbone, data(kind), steps=20) for _ in range(2)]
    assert np.array_equal(curves[0].losses, curves[1].losses)
    after = backbone.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_a_stream_gives_its_first_task_and_names():
    x, y = data("llama")
    named = class_incremental(
        x, y, x, y, tasks=1, seed=0, validation=0, name="named", class_names=list(LABELS)
    )
    backbone = tiny.backbone("llama")
    found = find_rate(PromptTuning(length=2), backbone, named, steps=20)
    task = named[0]
    same = find_rate(PromptTuning(length=2, labels=LABELS), backbone, task, steps=20)
    assert np.array_equal(found.losses, same.losses)
    with pytest.raises(StateError, match="names of the classes"):
        find_rate(PromptTuning(length=2), backbone, task, steps=20)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"low": 0.0}, "0 < low < high"),
        ({"low": 0.1, "high": 0.1}, "0 < low < high"),
        ({"steps": 19}, "at least 20 steps"),
    ],
)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        find_rate(LinearHead(), tiny.backbone("vit"), data("vit"), **options)


def test_what_does_not_train_is_refused():
    with pytest.raises(StateError, match="trains by gradients"):
        find_rate(NCM(), tiny.backbone("vit"), data("vit"))


def test_a_task_of_one_class_is_refused_as_in_training():
    with pytest.raises(DataError, match="at least two classes"):
        find_rate(LinearHead(), tiny.backbone("vit"), (tiny.raw("vit", 4), np.zeros(4, int)))
