"""HiDe-Prompt against its equations in float64: prompts, contrast, task inference, alignment."""

import math

import pytest
import torch

from cpool.errors import ConfigError, PoolError
from cpool.methods import HiDePrompt
from cpool.momentum_pool import MomentumPool
from cpool.policies import TaskInference
from cpool.policies.task_inference import _WEIGHTS
from cpool.rules.contrast import contrast
from cpool.seeding import seeded
from tests import tiny
from tests.methods.naive_vit import batch, cross_entropy, encode, leaf, same, weights

LAYERS = (0, 2)


def method(**options):
    small = {"layers": LAYERS, "length": 2, "infer_epochs": 1, "align_epochs": 1, "per_class": 3}
    return HiDePrompt(**{**small, **options})


def after_one_task(**options):
    with seeded(0):
        model = method(**options).build(tiny.backbone("vit"))
        model.begin_task([0, 1])
        first = batch([0, 1, 1, 0], seed=9)
        model.train()(first, task=0)
        model.end_task([first])
        model.begin_task([2, 3])
    return model, first


def features(image, values):
    """Return [CLS] with prefixes [2 · layers, length, width] of the layers, keys then values."""

    def prefix(layer, state):
        if layer not in LAYERS:
            return None
        place = 2 * LAYERS.index(layer)
        return values[place], values[place + 1]

    return encode(weights(), image, prefix)


def test_loss_and_gradients_in_the_second_task():
    model, first = after_one_task(momentum=0.3, contrast=0.6, temperature=5.0)
    pool = model.prompter.branches["expert"].pool
    assert torch.equal(pool.blocks[1], pool.blocks[0]), "a prompt starts from the one before"
    with torch.no_grad():
        pool.blocks[1] += torch.randn(pool.blocks[1].shape)
    inputs = batch([2, 3, 3], seed=4)

    old, own = pool.blocks[0][0].detach().double(), leaf(pool.blocks[1])
    rows = torch.stack([features(x, 0.7 * own[0] + 0.3 * old) for x in inputs["pixel_values"]])
    seen = torch.stack([features(x, old) for x in first["pixel_values"]])
    means = [seen[[0, 3]].mean(0), seen[[1, 2]].mean(0)]
    everything = [*means, *rows]
    push = torch.zeros((), dtype=torch.float64)
    for i, row in enumerate(everything):
        score = torch.stack([(row * other).sum() / 5.0 for other in everything])
        push = push - (score[i] - torch.logsumexp(score, 0)) / len(everything)
    head = leaf(torch.cat(list(model.head.weights)))
    logits = rows @ head.T + torch.cat(list(model.head.biases)).detach()
    wanted = cross_entropy(logits, [2, 3, 3], [2, 3]) + 0.6 * push
    wanted.backward()

    out = model.train()(inputs, task=1)
    assert same(out.logits, logits) and same(out.losses["contrast"], 0.6 * push)
    assert same(out.loss, wanted)
    out.loss.backward()
    assert same(pool.blocks[1].grad, own.grad) and pool.blocks[0].grad is None
    assert same(torch.cat([p.grad for p in model.head.weights]), head.grad)


def test_freezing_keeps_the_value_that_was_trained():
    model, _ = after_one_task(momentum=0.3)
    pool = model.prompter.branches["expert"].pool
    with torch.no_grad():
        pool.blocks[1] += torch.randn(pool.blocks[1].shape)
    inputs = batch([2, 3, 3], seed=4)
    model.train()(inputs, task=1)
    model.eval()
    wanted = 0.7 * pool.blocks[1].detach() + 0.3 * pool.blocks[0]
    before = model(inputs, task=1).features.detach()
    model.end_task([inputs])
    assert torch.equal(pool.blocks[1], wanted) and not pool.blocks[1].requires_grad
    assert torch.allclose(model.eval()(inputs, task=1).features, before, atol=1e-6)


def test_momentum_reads_the_same_in_every_way():
    with seeded(0):
        pool = MomentumPool(2, 2, 3, momentum=0.5)
        for _ in range(3):
            pool.freeze_all()
            pool.grow(2)
    old = torch.cat(list(pool.blocks)[:2]).mean(0)
    values = pool.values()
    assert torch.allclose(values[4:], 0.5 * pool.blocks[2] + 0.5 * old)
    assert torch.equal(values[:2], pool.blocks[0]), "the first task has nothing to mix with"
    for index in (torch.tensor([5, 4]), torch.tensor([[0, 5], [3, 1]])):
        assert torch.equal(pool.read(index), values[index])
    with pytest.raises(PoolError, match="momentum"):
        MomentumPool(1, 1, 1, momentum=1.0)


def adam(weights, grads, state, lr, step):
    for name, grad in grads.items():
        m, v = state.setdefault(name, [torch.zeros_like(grad), torch.zeros_like(grad)])
        m.mul_(0.9).add_(grad, alpha=0.1)
        v.mul_(0.999).add_(grad**2, alpha=0.001)
        move = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        weights[name] = (weights[name] - lr * move).detach().requires_grad_()


def network(w, q):
    """One query at a time: LN(q + W₂ GELU(W₁ q + b₁) + b₂), then the head."""
    inner = w["first"] @ q + w["first_bias"]
    inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    h = q + w["second"] @ inner + w["second_bias"]
    h = (h - h.mean()) / ((h - h.mean()).square().mean() + 1e-5).sqrt() * w["gain"] + w["shift"]
    return w["head"] @ h + w["head_bias"]


def test_task_inference_is_adam_on_the_task_then_sgd_on_draws():
    width, n = 4, 6
    options = {"epochs": 2, "lr": 0.01, "batch_size": 4, "per_class": 3, "replay_epochs": 2}
    with seeded(0):
        policy = TaskInference(width, hidden=5, replay_lr=0.1, **options)
        x = torch.randn(2, n, width)
        labels = torch.tensor([[0, 1] * 3, [7, 8] * 3])
        policy.grow(1, task=0)
        policy.end_task(x[0], 0)
        policy.end_classes(x[0], labels[0], 0)
        policy.grow(1, task=1)
    w = {name: leaf(policy.get_buffer(name)) for name in _WEIGHTS}
    with seeded(5):
        policy.end_classes(x[1], labels[1], 1)
    with seeded(5):
        new = torch.empty(2, width).normal_(0, 0.02).double()
        torch.empty(2).normal_()  # drawn for the biases, which start at 0
        w["head"] = leaf(torch.cat([w["head"], new]))
        w["head_bias"] = leaf(torch.cat([w["head_bias"], torch.zeros(2).double()]))
        state, step = {}, 0
        for _ in range(2):
            order = torch.randperm(n).tolist()
            for part in (order[:4], order[4:]):
                step += 1
                rows = torch.stack([network(w, x[1, i].double()) for i in part])
                loss = cross_entropy(rows, [2 + i % 2 for i in part], [2, 3])
                grads = torch.autograd.grad(loss, list(w.values()))
                adam(w, dict(zip(w, grads, strict=True)), state, 0.01, step)
        velocity = {name: torch.zeros_like(value) for name, value in w.items()}
        for epoch in range(2):
            rate = 0.1 * (1 + math.cos(math.pi * epoch / 2)) / 2
            drawn, _ = policy.gaussians.draw(3)
            order = torch.randperm(12).tolist()
            for start in range(0, 12, 3):
                part = order[start : start + 3]
                rows = torch.stack([network(w, drawn[i].double()) for i in part])
                loss = cross_entropy(rows, [i // 3 for i in part])
                for name, grad in zip(w, torch.autograd.grad(loss, list(w.values())), strict=True):
                    velocity[name] = 0.9 * velocity[name] + grad + 5e-4 * w[name].detach()
                w = {n: leaf(v - rate * velocity[n]) for n, v in w.items()}
    for name, value in w.items():
        assert same(policy.get_buffer(name), value, 1e-3), name
    query = torch.randn(5, width)
    logits = torch.stack([network(w, q.double()) for q in query])
    assert same(policy.logits(query), logits, 1e-3)
    slots = torch.tensor([0, 0, 1, 1])[logits.argmax(1)]
    assert torch.equal(policy.eval()(query).index[:, 0], slots)
    assert policy(query, task=0).index.unique().tolist() == [0], "the task is told in training"


def test_each_sample_gets_the_slot_of_its_own_class():
    """No majority of the batch: samples of two tasks in one batch get two slots."""
    with seeded(0):
        policy = TaskInference(4, epochs=40, lr=0.02, per_class=16, replay_epochs=40)
        centres = 4 * torch.eye(4)
        for task in range(2):
            policy.grow(1, task=task)
            labels = torch.tensor([2 * task, 2 * task + 1] * 8)
            policy.end_classes(centres[labels] + 0.1 * torch.randn(16, 4), labels, task)
    mixed = torch.tensor([0, 3, 1, 2])
    assert policy.eval()(centres[mixed]).index[:, 0].tolist() == [0, 1, 0, 1]
    off = torch.tensor([True, False])
    assert policy(centres[mixed], available=off).index[:, 0].tolist() == [0, 0, 0, 0]


def test_a_class_without_a_slot_of_its_task_gets_the_one_before():
    policy = TaskInference(4, epochs=1, per_class=2, replay_epochs=1)
    policy.grow(1, task=0)
    rows = torch.randn(4, 4)
    policy.end_classes(rows, torch.tensor([0, 1, 0, 1]), 0)
    policy.end_classes(rows, torch.tensor([2, 3, 2, 3]), 1)  # the branch did not grow
    policy.grow(1, task=2)
    policy.end_classes(rows, torch.tensor([4, 1, 4, 1]), 2)  # class 1 comes again
    assert policy.slots().tolist() == [0, 1, 0, 0, 1]


def test_nothing_of_the_network_is_trained_by_the_learner():
    model, _ = after_one_task()
    names = [name for name, _ in model.named_parameters()]
    assert names and not any("policy" in name for name in names)


def test_the_contrast_by_hand():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    first, second = math.log(1 + math.exp(-2)), math.log(1 + math.exp(-8))
    assert float(contrast(rows, 0.5)) == pytest.approx((first + second) / 2, abs=1e-6)


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="temperature"):
        HiDePrompt(temperature=0.0)
    with pytest.raises(ConfigError, match="contrast"):
        HiDePrompt(contrast=-1.0)
    with pytest.raises(ConfigError, match="replay_epochs"):
        TaskInference(4, replay_epochs=-1)
