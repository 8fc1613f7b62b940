"""EWC against loops in float64: Fisher, penalty, gradient, and what has no spring."""

import copy
import math

import pytest
import torch

from cpool.errors import ConfigError
from cpool.methods import EWC
from cpool.rules.ewc import ElasticPenalty, fisher_diagonal
from tests import tiny

WIDTH = tiny.WIDTH


def head_model(**options):
    """Return a model with a head alone, on features that are given."""
    model = EWC(tune="head", **options).build(tiny.backbone("vit"))
    model.begin_task([3, 7, 8])
    return model


def data(labels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(len(labels), WIDTH, generator=generator)
    return {"query": query, "labels": torch.tensor(labels)}


def softmax(row):
    top = max(row)
    exp = [math.exp(v - top) for v in row]
    return [v / sum(exp) for v in exp]


def naive_logits(model, query):
    """Return logits by loops, in float64."""
    rows = [r for w in model.head.weights for r in w.double().tolist()]
    biases = [v for b in model.head.biases for v in b.double().tolist()]
    return [
        [
            sum(a * b for a, b in zip(r, q, strict=True)) + c
            for r, c in zip(rows, biases, strict=True)
        ]
        for q in query.double().tolist()
    ]


@pytest.mark.parametrize("mask", ["task", "seen"])
@pytest.mark.parametrize("anchor", [0.0, 2.0])
def test_the_fisher_of_the_labels_equals_a_loop(mask, anchor):
    model = head_model()
    model.begin_task([1, 2])
    model.mask, model.anchor = mask, anchor
    batch = data([1, 2, 2, 1, 1])
    got = fisher_diagonal(
        model.eval(),
        [tiny.rows(batch, slice(0, 3)), tiny.rows(batch, slice(3, 5))],
        1,
        labels="data",
    )
    competing = [3, 4] if mask == "task" else [0, 1, 2, 3, 4]
    weight = [[0.0] * WIDTH for _ in range(5)]
    bias = [0.0] * 5
    for query, label, row in zip(
        batch["query"].double().tolist(),
        batch["labels"].tolist(),
        naive_logits(model, batch["query"]),
        strict=True,
    ):
        more = [math.log(anchor)] if anchor else []
        p = dict(zip(competing, softmax([*(row[c] for c in competing), *more]), strict=False))
        for c in competing:
            slope = float(c == {1: 3, 2: 4}[label]) - p[c]
            bias[c] += slope**2 / 5
            for f in range(WIDTH):
                weight[c][f] += (slope * query[f]) ** 2 / 5
    both = torch.cat([got["head.weights.0"], got["head.weights.1"]])
    assert torch.allclose(both.double(), torch.tensor(weight).double(), rtol=1e-4, atol=1e-9)
    both = torch.cat([got["head.biases.0"], got["head.biases.1"]])
    assert torch.allclose(both.double(), torch.tensor(bias).double(), rtol=1e-4, atol=1e-9)


def test_the_fisher_of_the_model_has_the_expectation_over_its_own_labels():
    """Of a softmax, E_y[(∂ log p_y / ∂z_c)²] = p_c (1 − p_c), whatever the labels of the data."""
    model = head_model()
    one = data([3])
    many = {"query": one["query"].repeat(3000, 1), "labels": torch.full((3000,), 3)}
    got = fisher_diagonal(model.eval(), [many], 0, labels="model")["head.biases.0"]
    p = torch.tensor(softmax(naive_logits(model, one["query"])[0]))
    assert torch.allclose(got, (p * (1 - p)).float(), rtol=0.1)
    by_data = fisher_diagonal(model, [many], 0, labels="data")["head.biases.0"]
    assert not torch.allclose(by_data, got, rtol=0.3)


@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_the_fisher_of_the_trunk_is_the_mean_of_squared_gradients_of_single_samples(kind):
    model = EWC().build(tiny.backbone(kind))
    model.begin_task([0, 1, 2])
    model.eval()
    batch = {**tiny.batch(kind, 4), "labels": torch.tensor([0, 2, 1, 2])}
    got = fisher_diagonal(model, [batch], 0, labels="data")
    double = copy.deepcopy(model).double().eval()
    weights = dict(double.named_parameters())
    assert got.keys() == weights.keys()
    total = {name: torch.zeros_like(w) for name, w in weights.items()}
    for row, column in enumerate([0, 2, 1, 2]):
        features = double.trunk.features(tiny.unpadded(tiny.batch(kind, 4), row))
        z = features[0] @ double.head.weights[0].T + double.head.biases[0]
        log_p = z[column] - torch.log(torch.exp(z).sum())
        slopes = torch.autograd.grad(log_p, list(weights.values()), allow_unused=True)
        for name, slope in zip(weights, slopes, strict=True):
            total[name] += 0 if slope is None else slope**2 / 4
    assert sum(float(v.sum()) for k, v in total.items() if k.startswith("trunk.")) > 0
    # The bias of the keys has no gradient but rounding, so the scale is that of all weights.
    scale = max(float(expected.max()) for expected in total.values())
    for name, expected in total.items():
        assert torch.allclose(got[name].double(), expected, rtol=1e-3, atol=1e-9 * scale), name


def test_the_number_of_samples_is_kept_to():
    model = head_model()
    calls, answer = [], model.answer
    model.answer = lambda *a, **k: calls.append(1) or answer(*a, **k)
    fisher_diagonal(model.eval(), [data([3, 7]), data([8, 8, 3])], 0, samples=4)
    assert len(calls) == 4


def trained(online, tasks=2, decay=0.5):
    """Return a model after some tasks that really moved its weights, and what was noted."""
    model = head_model(online=online, decay=decay, samples=None, fisher="data", strength=3.0)
    rule, notes = model.rules[0], []
    for task in range(tasks):
        if task:
            model.begin_task([10 + task])
        labels = [3, 7, 8, 3] if task == 0 else [10 + task] * 4
        model.mask = "seen"
        batch = data(labels, seed=task)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.end_task([batch])
        fisher = fisher_diagonal(model, [batch], task, labels="data")
        weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        notes.append((fisher, weights))
    model.begin_task([20, 21])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, rule, notes


@pytest.mark.parametrize("online", [False, True])
def test_penalty_and_gradient_equal_a_loop(online):
    model, rule, notes = trained(online)
    value = rule.loss(model, {}, None, 2)["ewc"]
    value.backward()
    expected, slopes = 0.0, {}
    for name, now in model.named_parameters():
        flat = now.detach().double().flatten().tolist()
        slope = [0.0] * len(flat)
        if online:
            # γ (γ·0 + F_0) + F_1 around the weights after task 1
            fishers = [0.5 * notes[0][0].get(name, torch.zeros(now.shape))]
            fisher = fishers[0] + notes[1][0].get(name, torch.zeros(now.shape))
            springs = [(fisher, notes[1][1].get(name))]
        else:
            springs = [(fisher.get(name), weights.get(name)) for fisher, weights in notes]
        for fisher, anchor in springs:
            if anchor is None:
                continue
            pairs = zip(fisher.double().flatten(), anchor.double().flatten(), strict=True)
            for i, (f, a) in enumerate(pairs):
                expected += 3.0 / 2 * float(f) * (flat[i] - float(a)) ** 2
                slope[i] += 3.0 * float(f) * (flat[i] - float(a))
        slopes[name] = slope
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-3
    for name, now in model.named_parameters():
        got = torch.zeros_like(now) if now.grad is None else now.grad
        assert torch.allclose(got.flatten(), torch.tensor(slopes[name]), rtol=1e-3, atol=1e-7), name


def test_rows_of_later_classes_have_no_spring():
    model, rule, _ = trained(online=False)
    rule.loss(model, {}, None, 2)["ewc"].backward()
    grads = [w.grad for w in model.head.weights]
    assert grads[0].abs().max() > 0
    assert grads[1].abs().max() > 0, "task 1 has a spring of its own"
    assert grads[2] is None
    assert "head.weights.1" not in rule.pieces[0]


@pytest.mark.parametrize("online", [False, True])
def test_what_is_stored_is_said(online):
    _, rule, _ = trained(online)
    sizes = [3 * (WIDTH + 1), 4 * (WIDTH + 1)]
    stored = sum(t.numel() * t.element_size() for t in rule.state_dict().values())
    assert stored == 8 * (sizes[1] if online else sum(sizes))


def test_on_a_head_alone_a_mask_of_the_task_would_leave_nothing_to_hold():
    """So there all classes seen compete by default; the backbone moves under either mask."""
    assert (EWC().settings.mask, EWC(tune="head").settings.mask) == ("task", "seen")
    for mask, moves in (("task", False), ("seen", True)):
        model = head_model()
        model.end_task([data([3, 7, 8])])
        model.begin_task([1, 2])
        model.mask = mask
        model.train()(data([1, 2, 1]), task=1).loss.backward()
        assert bool(model.head.weights[0].grad.abs().max() > 0) == moves


def test_the_first_task_has_no_penalty():
    model = head_model()
    assert model.rules[0].loss(model, {}, None, 0) == {}


def test_a_strong_spring_holds_what_mattered():
    """Plain training moves the old rows where F is large; the springs hold them there."""
    moved = {}
    for strength in (0.0, 50.0):
        torch.manual_seed(0)
        model = head_model(strength=strength)
        model.mask = "seen"
        model.end_task([data([3, 7, 8, 3, 7, 8])])
        old = model.head.weights[0].detach().clone()
        model.begin_task([1])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            model(data([1, 1, 1, 1]), task=1).loss.backward()
            optimizer.step()
        fisher = model.rules[0].get_buffer("fisher0")[: old.numel()].view_as(old)
        moved[strength] = float((fisher * (model.head.weights[0].detach() - old).square()).sum())
    assert moved[50.0] < 0.05 * moved[0.0], moved


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strength": -1.0}, "strength from 0"),
        ({"decay": 1.5}, "decay from 0 to 1"),
        ({"samples": 0}, "samples at least 1"),
    ],
)
def test_bad_settings(options, says):
    with pytest.raises(ConfigError, match=says):
        EWC(**options)
    with pytest.raises(ConfigError, match="strength from 0"):
        ElasticPenalty(**{"strength": 1.0, **options})
