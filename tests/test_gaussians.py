"""Class Gaussians against numpy's covariance; the retraining of a head against a plain loop."""

import numpy as np
import pytest
import torch
from torch import nn

from cpool.errors import ConfigError, DataError
from cpool.gaussians import ClassGaussians
from cpool.heads import LinearHead
from cpool.rules.alignment import GaussianAlignment, normed
from cpool.seeding import seeded


def data(n=40, width=4, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(classes, width, width))
    y = np.arange(n) % classes
    x = np.stack([rng.normal(size=width) @ mix[c] + 3 * c for c in y])
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y + 5)


def covariance(gaussians, place):
    part = gaussians.factors.split(gaussians.rows.tolist())[place].double()
    return (part.T @ part / (gaussians.count[place] - 1)).numpy()


@pytest.mark.parametrize("n", [6, 40, 400])
def test_the_factor_is_that_of_numpys_covariance(n):
    x, y = data(n)
    gaussians = ClassGaussians(4)
    gaussians.fit(x, y, task=0)
    for place, label in enumerate((5, 6)):
        rows = x[y == label].double().numpy()
        assert np.allclose(covariance(gaussians, place), np.cov(rows.T), atol=1e-4)
        assert np.allclose(gaussians.mean[place], rows.mean(0))
    assert gaussians.rows.max() <= 4, "never more rows than a covariance has"


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_draws_have_the_mean_and_covariance_with_jitter(kind):
    x, y = data(60)
    gaussians = ClassGaussians(4, covariance=kind, jitter=0.5)
    gaussians.fit(x, y, task=0)
    with seeded(0):
        rows, labels = gaussians.draw(200_000)
    assert torch.equal(labels.unique(return_counts=True)[1], torch.tensor([200_000] * 2))
    for label in (5, 6):
        mine = x[y == label].double().numpy()
        wanted = np.cov(mine.T)
        wanted = (np.diag(np.diag(wanted)) if kind == "diagonal" else wanted) + 0.5 * np.eye(4)
        drawn = rows[labels == label].double().numpy()
        scale = np.abs(wanted).max()
        assert np.allclose(drawn.mean(0), mine.mean(0), atol=0.02 * scale**0.5)
        assert np.allclose(np.cov(drawn.T), wanted, atol=0.02 * scale)


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_a_class_that_comes_again_is_added_exactly(kind):
    x, y = data(50)
    once, parts = ClassGaussians(4, covariance=kind), ClassGaussians(4, covariance=kind)
    once.fit(x, y, task=0)
    for task, part in enumerate((slice(0, 3), slice(3, 20), slice(20, 50))):
        parts.fit(x[part], y[part], task)
    for place in range(2):
        assert np.allclose(covariance(parts, place), covariance(once, place), atol=1e-4)
    assert torch.allclose(parts.mean, once.mean)
    assert torch.equal(parts.count, once.count) and parts.task.tolist() == [2, 2]


def test_one_sample_of_a_class_is_drawn_as_its_mean():
    gaussians = ClassGaussians(3, jitter=0.0)
    gaussians.fit(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([4]), task=0)
    rows, _ = gaussians.draw(5)
    assert torch.equal(rows, torch.tensor([[1.0, 2.0, 3.0]]).expand(5, 3))


def test_a_singular_covariance_is_drawn_in_its_own_plane():
    """Three samples in ten dimensions: a Cholesky factorisation of the covariance would fail."""
    rows = torch.randn(3, 10)
    gaussians = ClassGaussians(10, jitter=0.0)
    gaussians.fit(rows, torch.zeros(3, dtype=torch.int64), task=0)
    drawn, _ = gaussians.draw(50)
    assert torch.linalg.matrix_rank(drawn - rows.mean(0), tol=1e-4) == 2


def test_layout_and_refusals():
    x, y = data(20)
    gaussians = ClassGaussians(4)
    gaussians.fit(x, y, task=0)
    again = ClassGaussians(4)
    again.restore(gaussians.layout())
    again.load_state_dict(gaussians.state_dict())
    with seeded(1):
        first = gaussians.draw(3)[0]
    with seeded(1):
        assert torch.equal(again.draw(3)[0], first)
    with pytest.raises(DataError, match="features of a task"):
        gaussians.fit(x[:0], y[:0], task=1)
    with pytest.raises(ConfigError, match="jitter"):
        ClassGaussians(4, jitter=-1.0)
    with pytest.raises(ConfigError, match="per_class"):
        GaussianAlignment(4, per_class=0)


class Model:
    """What the rule reads of a model: its head."""

    def __init__(self, classes):
        self.head = LinearHead(4)
        for part in classes:
            self.head.begin_task(part)


def naive_alignment(weight, bias, rows, labels, order, tau, size=6, lr=0.1, epochs=3):
    """SGD with momentum and decay in float64, the gradients written out by hand."""
    weight, bias = weight.copy(), bias.copy()
    velocity = [np.zeros_like(weight), np.zeros_like(bias)]
    for epoch in range(epochs):
        rate = lr * (1 + np.cos(np.pi * epoch / epochs)) / 2
        for start in range(0, len(labels), size):
            index = order[epoch][start : start + size]
            w, b = torch.tensor(weight, requires_grad=True), torch.tensor(bias, requires_grad=True)
            total = torch.zeros((), dtype=torch.float64)
            for i in index:
                logits = w @ torch.tensor(rows[epoch][i]) + b
                if tau is not None:
                    norms = [torch.sqrt((logits[g] ** 2).sum()) for g in ([0, 1], [2, 3])]
                    logits = logits / (sum(norms) / len(norms)) / tau
                total = total - torch.log(torch.exp(logits)[labels[i]] / torch.exp(logits).sum())
            (total / len(index)).backward()
            for k, (value, grad) in enumerate(((weight, w.grad), (bias, b.grad))):
                velocity[k] = 0.9 * velocity[k] + grad.numpy() + 5e-4 * value
                value -= rate * velocity[k]
    return weight, bias


@pytest.mark.parametrize(("tau", "decay"), [(None, 0.0), (0.5, 0.1)])
def test_retraining_is_sgd_on_draws_of_all_classes(tau, decay):
    model, (x, y) = Model([[5, 6], [7, 8]]), data(40, classes=4)
    rule = GaussianAlignment(
        4, per_class=6, epochs=3, lr=0.1, logit_norm=tau, mean_decay=decay, jitter=0.01
    )
    before = [p.detach().clone() for p in model.head.parameters()]
    first = y < 7
    rule.end(model, (), x[first], y[first], 0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.head.parameters(), strict=True))

    weight = torch.cat([p.detach() for p in model.head.weights]).double().numpy()
    bias = torch.cat([p.detach() for p in model.head.biases]).double().numpy()
    with seeded(3):
        rule.end(model, (), x[~first], y[~first], 1)
    with seeded(3):  # the same draws, with the means of the first task nearer to 0
        rows, order = [], []
        scale = torch.tensor([1 - decay / 2, 1 - decay / 2, 1.0, 1.0])
        for _ in range(3):
            rows.append(rule.gaussians.draw(6, scale)[0].double().numpy())
            order.append(torch.randperm(24).numpy())
    labels = np.repeat(np.arange(4), 6)
    wanted = naive_alignment(weight, bias, rows, labels, order, tau)
    got = torch.cat([p.detach() for p in model.head.weights]).double().numpy()
    assert np.allclose(got, wanted[0], atol=1e-5)
    got = torch.cat([p.detach() for p in model.head.biases]).double().numpy()
    assert np.allclose(got, wanted[1], atol=1e-5)
    assert all(p.grad is None for p in model.head.parameters())


def test_frozen_rows_of_the_head_stay():
    model, (x, y) = Model([[5, 6]]), data(40, classes=4)
    model.head.freeze_old = True
    model.head.begin_task([7, 8])
    old = model.head.weights[0].detach().clone()
    rule = GaussianAlignment(4, per_class=4, epochs=2, lr=0.1)
    rule.end(model, (), x[y < 7], y[y < 7], 0)
    rule.end(model, (), x[y > 6], y[y > 6], 1)
    assert torch.equal(model.head.weights[0], old)
    assert isinstance(model.head, nn.Module) and model.head.weights[1].requires_grad


def test_the_norm_is_the_mean_over_tasks_and_an_empty_task_does_not_count():
    logits = torch.tensor([[3.0, 4.0, 6.0, 8.0]])
    assert torch.allclose(normed(logits, [[0, 1], [], [2, 3]], 2.0), logits / 7.5 / 2)
