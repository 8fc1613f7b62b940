"""SLCA: two rates, Gaussians of each class, a head aligned to answer and put back to train."""

import math

import pytest
import torch

from cpool.errors import ConfigError
from cpool.gaussians import ClassGaussians
from cpool.methods import SLCA
from cpool.optimise import make_optimizer
from cpool.rules.undo import HeadBackup
from tests import tiny

KIND = "vit"


def batch(labels, seed=0):
    return {**tiny.batch(KIND, len(labels), seed), "labels": torch.tensor(labels)}


def built(**options):
    model = SLCA(per_class=16, **{"epochs": 2, **options}).build(tiny.backbone(KIND))
    model.begin_task([4, 7])
    return model


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_the_backbone_learns_a_hundred_times_more_slowly():
    model = built()
    groups = make_optimizer(model, model.method.settings).param_groups
    rates = {group["lr"]: {id(p) for p in group["params"]} for group in groups}
    trunk = {id(p) for n, p in model.named_parameters() if n.startswith("trunk.")}
    head = {id(p) for n, p in model.named_parameters() if n.startswith("head.")}
    assert sorted(rates) == pytest.approx([1e-4, 1e-2])
    assert rates[min(rates)] == trunk
    assert rates[max(rates)] == head
    assert all(group["weight_decay"] == 5e-4 for group in groups)


def test_a_step_moves_each_part_by_its_own_rate():
    model = built()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    settings = model.method.settings.but(weight_decay=0.0)
    optimizer = make_optimizer(model, settings)
    model.train()(batch([4, 7, 7]), task=0).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            rate = 1e-4 if name.startswith("trunk.") else 1e-2
            moved = before[name] - parameter.detach()
            assert torch.allclose(moved, rate * parameter.grad, atol=1e-6), name


def two_tasks(**options):
    """Return a model at the end of its second task, its trained head, and its first Gaussians."""
    model = built(**options)
    model.end_task([batch([4, 7, 7, 4, 4])])
    first = state(model.rules[1])
    model.begin_task([1])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    trained, trunk = state(model.head), state(model.trunk)
    model.end_task([batch([1, 1, 1, 1], seed=1)])
    return model, trained, trunk, first


def test_the_alignment_changes_the_head_alone_and_all_of_its_rows():
    model, trained, trunk, _ = two_tasks()
    assert all(torch.equal(t, trunk[n]) for n, t in model.trunk.state_dict().items())
    for name, tensor in model.head.state_dict().items():
        assert not torch.equal(tensor, trained[name]), name


def test_the_next_task_starts_from_the_head_as_it_was_trained():
    model, trained, _, _ = two_tasks()
    aligned = state(model.head)
    model.begin_task([2, 3])
    now = model.head.state_dict()
    for name, tensor in trained.items():
        assert torch.equal(now[name], tensor), name
        assert not torch.equal(now[name], aligned[name]), name
    assert len(now["weights.2"]) == 2


def test_after_the_first_task_nothing_is_aligned():
    model = built()
    before = state(model.head)
    model.end_task([batch([4, 7, 7])])
    assert all(torch.equal(t, before[n]) for n, t in model.head.state_dict().items())


def test_without_epochs_only_the_slow_learner_is_left():
    model, trained, _, _ = two_tasks(epochs=0)
    assert all(torch.equal(t, trained[n]) for n, t in model.head.state_dict().items())


def test_gaussians_are_those_of_the_features_at_the_end_of_the_task_and_stay():
    model, _, _, first = two_tasks()
    gaussians = model.rules[1].gaussians
    assert gaussians.labels.tolist() == [4, 7, 1]
    with torch.no_grad():
        features = model.trunk.eval().features(batch([1, 1, 1, 1], seed=1)).double()
    assert torch.allclose(gaussians.mean[2], features.mean(0), atol=1e-5)
    factor = gaussians.factors[int(gaussians.rows[:2].sum()) :].double()
    rest = features - features.mean(0)
    assert torch.allclose(factor.T @ factor / 3, rest.T @ rest / 3, atol=1e-4)
    assert torch.equal(gaussians.mean[:2], first["gaussians.mean"])


def test_the_alignment_equals_a_loop_over_the_same_draws(monkeypatch):
    """SGD with momentum and a cosine over the epochs, on logits divided by τ · mean task norm."""
    draws, orders, scales = [], [], []
    drawn, randperm = ClassGaussians.draw, torch.randperm

    def noted(self, per_class, scale=None):
        draws.append(drawn(self, per_class, scale))
        scales.append(scale)
        return draws[-1]

    monkeypatch.setattr(ClassGaussians, "draw", noted)
    monkeypatch.setattr(torch, "randperm", lambda n: orders.append(randperm(n)) or orders[-1])
    model, trained, _, _ = two_tasks()
    assert len(draws) == len(orders) == 2
    assert scales[0].tolist() == pytest.approx([0.95, 0.95, 1.0])
    weight = torch.cat([trained["weights.0"], trained["weights.1"]]).double()
    bias = torch.cat([trained["biases.0"], trained["biases.1"]]).double()
    columns, speed = {4: 0, 7: 1, 1: 2}, [0.0, 0.0]
    for epoch, ((rows, labels), order) in enumerate(zip(draws, orders, strict=True)):
        rate = 0.01 * (1 + math.cos(math.pi * epoch / 2)) / 2
        for part in order.split(16):
            w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
            loss = 0.0
            for row in part.tolist():
                z = w @ rows[row].double() + b
                norm = ((z[0] ** 2 + z[1] ** 2).sqrt() + z[2].abs() + 2e-7) / 2
                z = z / (0.1 * norm)
                loss = loss + z.exp().sum().log() - z[columns[int(labels[row])]]
            slopes = torch.autograd.grad(loss / len(part), (w, b))
            for i, (value, slope) in enumerate(zip((weight, bias), slopes, strict=True)):
                speed[i] = 0.9 * speed[i] + slope + 5e-4 * value
                value -= rate * speed[i]
    now = model.head
    assert torch.allclose(torch.cat(list(now.weights)).double(), weight, atol=1e-4)
    assert torch.allclose(torch.cat(list(now.biases)).double(), bias, atol=1e-4)


def test_a_backup_is_the_same_after_a_round_trip():
    model, _, _, _ = two_tasks()
    backup = model.rules[0]
    again = HeadBackup()
    again.restore(backup.layout())
    again.load_state_dict(backup.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.buffers(), backup.buffers(), strict=True))
    assert len(list(again.buffers())) == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"slow": 0.0}, "slow above 0"),
        ({"per_class": 0}, "per_class at least 1"),
        ({"epochs": -1}, "epochs at least 0"),
        ({"lr": 0.0}, "lr above 0"),
        ({"logit_norm": 0.0}, "logit_norm above 0"),
        ({"mean_decay": 1.0}, "mean_decay from 0"),
    ],
)
def test_bad_settings(options, says):
    with pytest.raises(ConfigError, match=says):
        SLCA(**options)
