"""LwF against loops: the loss, its gradient, and an old model that is old, still and not stored."""

import math

import pytest
import torch

from cpool.errors import ConfigError
from cpool.learner import Learner
from cpool.methods import LwF
from cpool.model import PromptedModel
from cpool.rules.distillation import Distillation, distance
from tests import tiny
from tests.common.rows import ROWS
from tests.common.tasks import stream


def naive(now, then, temperature):
    """Return the mean of Σ p log(p / q) by loops."""

    def soft(row):
        exp = [math.exp(v / temperature) for v in row]
        return [v / sum(exp) for v in exp]

    total = 0.0
    for z, old in zip(now.tolist(), then.tolist(), strict=True):
        total += sum(p * math.log(p / q) for p, q in zip(soft(old), soft(z), strict=True))
    return total / len(now)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_distance_and_its_gradient_equal_loops(temperature):
    now = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    then = torch.randn(3, 4, dtype=torch.float64)
    value = distance(now, then, temperature)
    assert value.item() == pytest.approx(naive(now, then, temperature), rel=1e-9)
    value.backward()
    for i in range(3):
        for j in range(4):
            step = torch.zeros(3, 4, dtype=torch.float64)
            step[i, j] = 1e-5
            up, down = (naive(now + s * step, then, temperature) for s in (1, -1))
            assert float(now.grad[i, j]) == pytest.approx((up - down) / 2e-5, abs=1e-7)
    # The gradient of the paper's cross-entropy with soft targets: (q − p) / T, mean over samples.
    q, p = (now / temperature).softmax(1), (then / temperature).softmax(1)
    assert torch.allclose(now.grad, (q - p) / temperature / 3)


def started(tune, kind="bert", strength=2.0):
    """Return a model at the start of its second task, after its weights moved."""
    model = LwF(strength=strength, tune=tune).build(tiny.backbone(kind))
    model.begin_task([4, 2, 9])
    model.end_task()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    batch = {**tiny.batch(kind, 5), "labels": torch.tensor([1, 0, 1, 0, 0])}
    with torch.no_grad():
        said = model.eval()(batch_of(batch)).logits
    model.begin_task([0, 1])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model, batch, said, before


def batch_of(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


@pytest.mark.parametrize("tune", ["all", "head"])
def test_the_loss_compares_with_what_the_model_said_before_the_task(tune):
    model, batch, said, _ = started(tune)
    out = model.train()(batch, task=1)
    assert said.shape[1] == 3
    expected = 2.0 * naive(out.logits[:, :3].double(), said.double(), 2.0)
    assert out.losses["distillation"].item() == pytest.approx(expected, rel=1e-3)
    assert expected > 1e-4
    assert out.loss.item() == pytest.approx(sum(v.item() for v in out.losses.values()), rel=1e-6)
    out.losses["distillation"].backward()
    assert model.head.weights[0].grad.abs().max() > 0
    new = model.head.weights[1].grad
    assert new is None or new.abs().max() == 0, "new classes have no old answer"
    if tune == "all":
        moving = [p.grad for n, p in model.named_parameters() if n.startswith("trunk.")]
        assert any(g is not None and g.abs().max() > 0 for g in moving)


def test_the_old_model_is_in_eval_mode_and_stays_what_it_was():
    """The trunk of BERT has dropout: a teacher in training mode would answer anew each time."""
    model, batch, said, before = started("all")
    trunk, head, known = model.rules[0]._teacher
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(batch, task=1).loss.backward()
        optimizer.step()
    again = head(trunk.features(batch))[:, :known]
    assert torch.allclose(again, said, atol=1e-6)
    for name, tensor in trunk.model.named_parameters():
        assert torch.equal(tensor, before[f"trunk.model.{name}"]), name
        assert tensor.grad is None
    assert torch.equal(head.weights[0], before["head.weights.0"])


def test_the_old_model_is_neither_trained_nor_stored_and_goes_with_the_task():
    model, _, _, _ = started("all")
    rule = model.rules[0]
    assert not list(rule.parameters())
    assert not rule.state_dict()
    assert sum(name.startswith("rules") for name in model.state_dict()) == 0
    model.end_task()
    assert rule._teacher is None


def test_on_a_head_alone_all_classes_seen_compete():
    """Under a mask of the task's classes its old rows get no gradient: nothing to distil."""
    assert (LwF().settings.mask, LwF(tune="head").settings.mask) == ("task", "seen")


def test_the_first_task_distils_nothing():
    model = LwF(tune="head").build(tiny.backbone("vit"))
    model.begin_task([0, 1])
    out = model({**tiny.batch("vit", 2), "labels": torch.tensor([0, 1])}, task=0)
    assert set(out.losses) == {"cross_entropy"}


def test_without_strength_it_is_fine_tuning():
    """λ = 0 gives the weights of fine-tuning, bit for bit: the rule draws no random number."""
    options = {"seed": 0, "epochs": 1, "batch_size": 6, "device": "cpu", "quiet": True}
    trained = []
    for method in (ROWS["fine_tune"](), LwF(strength=0.0)):
        torch.manual_seed(3)
        learner = Learner(method.build(tiny.backbone("bert")), **options)
        for task in stream("bert")[:2]:
            learner.fit_task(task)
        trained.append(learner.model.state_dict())
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_a_model_with_prompts_is_refused():
    prompted = ROWS["l2p"]().build(tiny.backbone("vit"))
    model = PromptedModel(
        prompted.backbone, prompted.head, prompted.prompter, rules=[Distillation()]
    )
    with pytest.raises(ConfigError, match="without prompts"):
        model.begin_task([0, 1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strength": float("nan")}, "strength from 0"),
        ({"temperature": 0.0}, "temperature above 0"),
    ],
)
def test_bad_settings(options, says):
    with pytest.raises(ConfigError, match=says):
        LwF(**options)
    if "temperature" in options:
        with pytest.raises(ConfigError, match="temperature above 0"):
            Distillation(**options)
