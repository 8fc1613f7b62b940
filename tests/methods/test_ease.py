"""EASE against its equations in float64: prototypes, their synthesis, the reweighted cosines."""

import math

import numpy as np
import pytest
import torch

from cpool.errors import ConfigError, DataError
from cpool.heads import SubspaceHead
from cpool.learner import Learner
from cpool.methods import EASE
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import TASKS, stream
from tests.methods.naive_vit import batch, encode, weights

WIDTH = 3


def unit(v):
    return v / np.linalg.norm(v)


def naive(tasks, query, alpha, donors):
    """Return the logits of queries [n T F] after `tasks`, a list of (features [n t F], labels).

    Written as the codes go: a table of prototypes, filled in task by task.
    """
    total, table, own = len(tasks), {}, {}
    for t, (features, labels) in enumerate(tasks):
        for c in np.unique(labels):
            own[c] = t
            for d in range(t + 1):
                table[c, d] = features[labels == c][:, d].mean(0)
    real = set(table)
    for c, o in own.items():
        for d in range(o + 1, total):
            able = [j for j in own if (j, d) in real and (donors == "all" or own[j] == d)]
            score = np.exp([unit(table[c, o]) @ unit(table[j, o]) for j in able])
            mixed = [s * table[j, d] for s, j in zip(score / score.sum(), able, strict=True)]
            table[c, d] = np.sum(mixed, axis=0)
    logits = []
    for row in query:
        line = []
        for c, o in own.items():
            parts = [unit(row[d]) @ unit(table[c, d]) for d in range(total)]
            others = [parts[d] for d in range(total) if d != o]
            line.append(parts[o] + alpha * (np.mean(others) if others else 0.0))
        logits.append(line)
    return np.array(logits)


def draw(tasks, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for t in range(tasks):
        labels = np.array([2 * t, 2 * t + 1] * 4)
        made.append((rng.normal(size=(8, t + 1, WIDTH)) + labels[:, None, None] / 3, labels))
    return made, rng.normal(size=(5, tasks, WIDTH))


@pytest.mark.parametrize("donors", ["task", "all"])
@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_the_head_is_that_of_the_equations(tasks, donors):
    made, query = draw(tasks)
    head = SubspaceHead(WIDTH, weight=0.3, donors=donors)
    for features, labels in made:
        head.begin_task(sorted(set(labels.tolist())))
        flat = torch.tensor(features, dtype=torch.float32).flatten(1)
        head.fit(flat[:3], torch.tensor(labels[:3]))  # in two parts: sums add up
        head.fit(flat[3:], torch.tensor(labels[3:]))
    flat = torch.tensor(query, dtype=torch.float32).flatten(1)
    ours = head(flat).double().numpy()
    assert np.allclose(ours, naive(made, query, 0.3, donors), atol=1e-5)
    again = SubspaceHead(WIDTH, weight=0.3, donors=donors)
    again.restore(head.layout())
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(flat), head(flat))


def test_donors_differ_and_a_class_without_samples_gets_nothing():
    made, query = draw(4)
    assert not np.allclose(naive(made, query, 1.0, "task"), naive(made, query, 1.0, "all"))
    head = SubspaceHead(WIDTH)
    head.begin_task([0, 1, 9])
    head.fit(torch.randn(4, WIDTH), torch.tensor([0, 1, 0, 1]))
    assert head(torch.randn(2, WIDTH))[:, 2].tolist() == [-math.inf] * 2


def test_a_class_that_comes_again_has_samples_in_the_new_space():
    head = SubspaceHead(WIDTH)
    first, second = torch.randn(2, WIDTH), torch.randn(2, 2 * WIDTH)
    head.begin_task([0, 1]), head.fit(first, torch.tensor([0, 1]))
    head.begin_task([1, 2]), head.fit(second, torch.tensor([1, 2]))
    assert head.own.tolist() == [0, 0, 1]
    table = head.prototypes()
    assert torch.allclose(table[1, 0], (first[1] + second[0, :WIDTH]).double() / 2)
    assert torch.allclose(table[1, 1], second[0, WIDTH:].double())
    assert torch.allclose(table[0, 1], second[1, WIDTH:].double()), "class 2 is the only donor"


def test_features_of_too_few_slots_are_refused():
    head = SubspaceHead(WIDTH)
    head.begin_task([0, 1])
    head.fit(torch.randn(2, 2 * WIDTH), torch.tensor([0, 1]))
    for width in (WIDTH, 2 * WIDTH + 1):
        with pytest.raises(DataError, match="apart=True"):
            head(torch.randn(2, width))
    with pytest.raises(ConfigError, match="weight of at least 0"):
        SubspaceHead(WIDTH, weight=-1.0)
    with pytest.raises(ConfigError, match="alpha"):
        EASE(alpha=-0.1)


@pytest.fixture(scope="module")
def learner():
    with seeded(0):
        model = EASE(length=2, alpha=0.4).build(tiny.backbone("vit"))
    made = Learner(model, seed=0, epochs=2, lr=0.05, batch_size=6, device="cpu", quiet=True)
    made.run(stream("vit"))
    return made


def test_the_whole_method(learner):
    """Three trained prefixes, run one by one through a ViT written out in float64."""
    model, w = learner.model, weights()
    slots = torch.cat(list(next(iter(model.prompter)).pool.blocks)).double()
    assert len(slots) == TASKS and not torch.allclose(slots[0], slots[1])

    def features(x, number):
        rows = []
        for image in tiny.backbone("vit").prepare(x)["pixel_values"]:
            passes = [
                encode(w, image, lambda n, s, p=p: (p[2 * n], p[2 * n + 1])) for p in slots[:number]
            ]
            rows.append(torch.stack(passes).numpy())
        return np.stack(rows)

    tasks = [(features(t.train.x, t.index + 1), t.train.y) for t in stream("vit")]
    x = stream("vit").joint().test.x[::3]
    wanted = naive(tasks, features(x, TASKS), 0.4, "task")
    with torch.no_grad():
        ours = model.eval()(tiny.backbone("vit").prepare(x)).logits.double().numpy()
    assert np.allclose(ours, wanted, atol=1e-4)


def test_each_sample_costs_a_pass_a_task_and_each_pass_is_run_once(learner):
    calls = []
    handle = learner.model.backbone.model.register_forward_hook(
        lambda module, args, out: calls.append(len(out[0]))
    )
    try:
        learner.evaluate(stream("vit"), cached=False)
        whole = sum(calls)
        learner.evaluate(stream("vit"))
        learner.evaluate(stream("vit"))
    finally:
        handle.remove()
    number = sum(len(task.test) for task in stream("vit"))
    assert whole == TASKS * number
    assert sum(calls) <= 2 * whole, "kept features are not computed again"


def test_a_task_trains_its_own_slot_through_a_probe_of_its_classes():
    with seeded(0):
        model = EASE(length=2).build(tiny.backbone("vit"))
        first, second = batch([0, 1, 1]), batch([2, 3, 3])
        model.begin_task([0, 1], batches=[first])
        model.train()(first, task=0).loss.backward()
        model.end_task([first])
        model.begin_task([2, 3], batches=[second])
    out = model.train()(second, task=1)
    assert out.features.shape == (3, tiny.WIDTH)
    out.loss.backward()
    old, new = next(iter(model.prompter)).pool.blocks
    assert old.grad is None and not old.requires_grad and new.grad.abs().max() > 0
    assert model.head.probe.weights[0].grad is not None
