"""FirstSessionPrompt: the probe in training, the closed form at test, and what it costs."""

import numpy as np
import pytest
import torch

from cpool.errors import ConfigError
from cpool.learner import Learner
from cpool.methods import FirstSessionPrompt
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import stream
from tests.methods.naive_vit import batch, cosine, cross_entropy, encode, leaf, same, weights


def prefixed(image, values):
    """Return [CLS] with prefixes on all layers; values [2 · layers, length, width]."""
    return encode(weights(), image, lambda n, state: (values[2 * n], values[2 * n + 1]))


def test_loss_and_gradients_of_the_first_session():
    with seeded(0):
        model = FirstSessionPrompt(length=2, scale=7.0).build(tiny.backbone("vit"))
        inputs = batch([1, 0, 1], seed=4)
        model.begin_task([0, 1], batches=[inputs])
    pool = next(iter(model.prompter)).pool
    plain = [encode(weights(), x, lambda n, s: None) for x in inputs["pixel_values"]]
    unit = [row / (row**2).sum().sqrt() for row in plain]
    probe = leaf(torch.stack([unit[1], (unit[0] + unit[2]) / 2]))  # starts at the class means
    assert same(model.head.probe.weights[0], probe)
    values = leaf(pool.blocks[0])
    rows = [prefixed(x, values[0]) for x in inputs["pixel_values"]]
    logits = torch.stack([7 * torch.stack([cosine(r, p) for p in probe]) for r in rows])
    wanted = cross_entropy(logits, [1, 0, 1])
    wanted.backward()
    out = model.train()(inputs, task=0)
    assert same(out.logits, logits) and same(out.loss, wanted)
    out.loss.backward()
    assert same(pool.blocks[0].grad, values.grad)
    assert same(model.head.probe.weights[0].grad, probe.grad)


def learned(**options):
    with seeded(0):
        model = FirstSessionPrompt(length=2, **options).build(tiny.backbone("vit"))
    learner = Learner(model, seed=0, epochs=2, lr=0.05, batch_size=6, device="cpu", quiet=True)
    learner.fit_task(stream("vit")[0])
    prefix = next(iter(model.prompter)).pool.blocks[0].detach().clone()
    for task in stream("vit")[1:]:
        learner.fit_task(task)
    return learner, prefix


@pytest.mark.parametrize("classifier", ["ncm", "ridge"])
def test_all_tasks_are_classified_in_closed_form_on_the_first_prefix(classifier):
    learner, prefix = learned(classifier=classifier, ridge=0.5)
    pool = next(iter(learner.model.prompter)).pool
    assert len(pool) == 1 and torch.equal(pool.blocks[0], prefix)
    assert list(learner.model.parameters()) == [] and len(learner.losses) == 1
    seen, values = stream("vit").joint(), prefix[0].double()
    prepare = tiny.backbone("vit").prepare

    def read(x):
        return torch.stack([prefixed(i, values) for i in prepare(x)["pixel_values"]]).numpy()

    x, y = read(seen.train.x), seen.train.y
    test = read(seen.test.x)
    classes = learner.classes
    if classifier == "ncm":
        means = np.stack([x[y == c].mean(0) for c in classes])
        wanted = test @ means.T
        wanted /= np.linalg.norm(test, axis=1)[:, None] * np.linalg.norm(means, axis=1)[None]
    else:
        targets = np.stack([y == c for c in classes], axis=1).astype(float)
        wanted = test @ np.linalg.solve(x.T @ x + 0.5 * np.eye(x.shape[1]), x.T @ targets)
    with torch.no_grad():
        ours = learner.model.eval()(prepare(seen.test.x)).logits
    assert same(ours, torch.tensor(wanted), 2e-3)


def test_one_pass_a_sample_and_none_twice():
    learner, _ = learned()
    calls = []
    handle = learner.model.backbone.model.register_forward_hook(
        lambda module, args, out: calls.append(len(out[0]))
    )
    try:
        learner.evaluate(stream("vit"))
        once = sum(calls)
        learner.evaluate(stream("vit"))
    finally:
        handle.remove()
    assert once == sum(len(task.test) for task in stream("vit")) == sum(calls)


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="projection"):
        FirstSessionPrompt(projection=-1)
    with pytest.raises(ConfigError, match="length"):
        FirstSessionPrompt(length=0)
    with pytest.raises(ConfigError, match="ridge"):
        FirstSessionPrompt(ridge=-1.0)
