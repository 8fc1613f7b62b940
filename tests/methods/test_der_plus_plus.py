"""DER++ against loops: both terms, what is stored, and heads that grew since."""

import pytest
import torch

from cpool.errors import ConfigError
from cpool.methods import DERPlusPlus
from cpool.rules.dark import logit_distance
from tests import tiny


def test_the_distance_and_its_gradient_equal_loops_over_the_columns_that_were_there():
    now = torch.randn(3, 5, requires_grad=True)
    then, columns = torch.randn(3, 4), torch.tensor([2, 4, 3])
    value = logit_distance(now, then, columns)
    expected, slopes = 0.0, torch.zeros(3, 5, dtype=torch.float64)
    for b, c in enumerate(columns.tolist()):
        for j in range(c):
            gap = float(now[b, j].detach()) - float(then[b, j])
            expected += gap**2 / c / 3
            slopes[b, j] = 2 * gap / c / 3
    assert float(value.detach()) == pytest.approx(expected, rel=1e-6)
    value.backward()
    assert torch.allclose(now.grad.double(), slopes, atol=1e-6)
    assert now.grad[:, 4].abs().max() == 0, "classes that came later are free"


def test_with_one_number_of_columns_it_is_the_mean_squared_error_of_the_code():
    now, then = torch.randn(6, 4), torch.randn(6, 4)
    got = logit_distance(now, then, torch.full((6,), 4))
    assert torch.allclose(got, torch.nn.functional.mse_loss(now, then))


def remembering(tune, **options):
    """Return a model in its second task, with all it saw in the first one in its memory."""
    torch.manual_seed(2)
    method = DERPlusPlus(size=6, alpha=0.7, beta=0.3, tune=tune, **options)
    model = method.build(tiny.backbone("vit"))  # without dropout
    model.mask = "seen"
    model.begin_task([5, 3])
    past = {**tiny.batch("vit", 6, seed=1), "labels": torch.tensor([5, 3, 3, 5, 5, 3])}
    first = model.train()(past, task=0)
    model.end_task()
    model.begin_task([1, 2])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    new = {**tiny.batch("vit", 6, seed=2), "labels": torch.tensor([1, 2, 2, 1, 1, 1])}
    return model, past, first, new


@pytest.mark.parametrize("tune", ["all", "head"])
def test_both_terms_and_the_gradient_equal_loops(tune):
    model, past, first, new = remembering(tune)
    out = model.train()(new, task=1)
    out.loss.backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    source = model.trunk if tune == "all" else model.backbone
    weight, bias = torch.cat(list(model.head.weights)), torch.cat(list(model.head.biases))
    columns = {3: 0, 5: 1, 1: 2, 2: 3}

    def cross_entropy(batch):
        logits = source.features(batch) @ weight.T + bias
        rows = zip(logits, batch["labels"].tolist(), strict=True)
        return sum(row.exp().sum().log() - row[columns[label]] for row, label in rows) / 6

    said, z = first.logits.detach(), source.features(past) @ weight.T + bias
    dark = sum((z[b, j] - said[b, j]) ** 2 for b in range(6) for j in range(2)) / 2 / 6
    assert out.losses["dark"].item() == pytest.approx(0.7 * float(dark.detach()), rel=1e-4)
    replay = cross_entropy(past)
    assert out.losses["replay"].item() == pytest.approx(0.3 * float(replay.detach()), rel=1e-5)
    (cross_entropy(new) + 0.7 * dark + 0.3 * replay).backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(got[name], gradient, rtol=2e-3, atol=2e-6), name


def test_the_memory_holds_the_logits_of_the_step_and_how_many_there_were():
    model, past, first, new = remembering("head")
    memory = model.rules[0].memory
    query = model.query(past)
    for row in range(6):
        source = (query == memory.get_buffer("x_query")[row]).all(1).nonzero()[0, 0]
        assert torch.equal(memory.get_buffer("x_logits")[row], first.logits[source].detach())
    assert memory.get_buffer("x_columns").tolist() == [2] * 6
    model.rules[0].memory.size = 12
    model.train()(new, task=1)
    assert sorted(memory.get_buffer("x_columns").tolist()) == [2] * 6 + [4] * 6
    assert memory.get_buffer("x_logits").shape == (12, 4)
    assert not memory.get_buffer("x_logits").requires_grad


def test_the_first_step_has_nothing_to_remember_and_the_second_has():
    model = DERPlusPlus(size=4, tune="head").build(tiny.backbone("vit"))
    model.begin_task([0, 1])
    batch = {**tiny.batch("vit", 3), "labels": torch.tensor([0, 1, 1])}
    assert set(model(batch, task=0).losses) == {"cross_entropy"}
    assert set(model(batch, task=0).losses) == {"cross_entropy", "dark", "replay"}
    assert len(model.rules[0].memory) == 4


def test_without_beta_it_is_der():
    model, _, _, new = remembering("head")
    model.rules[0].beta = 0.0
    assert set(model.train()(new, task=1).losses) == {"cross_entropy", "dark"}


def test_nothing_is_remembered_at_test():
    model, past, _, new = remembering("head")
    before = {n: b.clone() for n, b in model.rules[0].named_buffers()}
    model.eval()(new)
    model.eval()(past, task=0)
    assert all(torch.equal(b, before[n]) for n, b in model.rules[0].named_buffers())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 0}, "size at least 1"),
        ({"alpha": -0.1}, "alpha from 0"),
        ({"beta": float("inf")}, "beta from 0"),
        ({"batch": 0}, "batch at least 1"),
    ],
)
def test_bad_settings(options, says):
    with pytest.raises(ConfigError, match=says):
        DERPlusPlus(**options)
