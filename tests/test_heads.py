"""Heads: growth, frozen rows, class means, ridge against its equations and RanPAC's own code."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.linear_model import Ridge

from cpool.errors import ConfigError, DataError, StateError
from cpool.heads import LinearHead, PrototypeHead
from cpool.ridge import RIDGES, RidgeHead, choose_ridge, leave_one_out, solve_dual, solve_primal


def test_a_linear_head_grows_by_the_new_classes_only():
    head = LinearHead(4)
    head.begin_task([5, 2])
    head.begin_task([2, 9])
    assert head.classes == [5, 2, 9]
    assert [tuple(w.shape) for w in head.weights] == [(2, 4), (1, 4)]
    assert head.columns(torch.tensor([9, 5, 2])).tolist() == [2, 0, 1]


def test_old_rows_are_bit_identical_when_frozen():
    head = LinearHead(4, freeze_old=True)
    head.begin_task([0, 1])
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=0.3)
    head(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    head.begin_task([2])
    before = [p.detach().clone() for p in (head.weights[0], head.biases[0])]
    new = torch.optim.AdamW(
        [p for p in head.parameters() if p.requires_grad], lr=0.1, weight_decay=0.3
    )
    head(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    new.step()
    assert torch.equal(head.weights[0], before[0])
    assert torch.equal(head.biases[0], before[1])
    assert head.weights[1].grad.abs().sum() > 0


def test_a_label_that_no_task_announced_is_refused():
    head = LinearHead(4)
    head.begin_task([0, 1])
    with pytest.raises(DataError, match=r"classes seen so far, \[0, 1\]; got \[7\]"):
        head.columns(torch.tensor([0, 7]))


def test_a_head_without_classes_says_so():
    for head in (LinearHead(4), PrototypeHead(4)):
        with pytest.raises(StateError, match="seen at least one task"):
            head(torch.zeros(1, 4))


def test_class_means_equal_a_loop_in_float64_in_any_order_of_batches():
    torch.manual_seed(0)
    features, labels = torch.randn(50, 6), torch.randint(3, (50,))
    head, again = PrototypeHead(6), PrototypeHead(6)
    for h in (head, again):
        h.begin_task([0, 1, 2])
    head.fit(features, labels)
    for part in torch.randperm(50).split(7):
        again.fit(features[part], labels[part])
    query = torch.randn(8, 6)
    for b, row in enumerate(query.double().tolist()):
        for c in range(3):
            rows = features[labels == c].double().tolist()
            mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
            dot = sum(x * y for x, y in zip(row, mean, strict=True))
            norm = math.dist(row, [0] * 6) * math.dist(mean, [0] * 6)
            assert head(query)[b, c].item() == pytest.approx(dot / norm, abs=1e-6)
    assert torch.allclose(head(query), again(query), atol=1e-6)


def test_a_class_without_samples_is_never_predicted():
    head = PrototypeHead(2)
    head.begin_task([0, 1])
    head.fit(torch.ones(3, 2), torch.zeros(3, dtype=torch.long))
    assert head(-torch.ones(1, 2)).argmax().item() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("make", [lambda: PrototypeHead(2), lambda: RidgeHead(2, projection=None)])
def test_features_that_are_not_finite_are_refused(make, bad):
    head = make()
    head.begin_task([0, 1])
    features = torch.ones(3, 2)
    features[1, 0] = bad
    with pytest.raises(DataError, match="NaN or infinity in 1 of 3 rows"):
        head.fit(features, torch.tensor([0, 1, 0]))


@given(
    n=st.integers(2, 30), m=st.integers(1, 12), power=st.integers(-3, 3), seed=st.integers(0, 99)
)
@settings(max_examples=50, deadline=None)
def test_the_dual_form_gives_the_weights_of_the_primal(n, m, power, seed):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, m, generator=generator, dtype=torch.float64)
    y = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    primal = solve_primal(z.T @ z, z.T @ y, 10.0**power)
    assert torch.allclose(primal, solve_dual(z, y, 10.0**power), rtol=1e-7, atol=1e-7)
    peer = Ridge(alpha=10.0**power, fit_intercept=False, solver="svd").fit(z.numpy(), y.numpy())
    assert np.allclose(primal.numpy(), np.atleast_2d(peer.coef_).T, rtol=1e-6, atol=1e-6)


def ridge_head(file, **options):
    head = RidgeHead(8, projection=16, **options)
    head.expand.matrix = file["W_rand"]
    return head


@pytest.mark.parametrize("mode", ["fixed", "auto"])
def test_ridge_agrees_with_the_code_of_ranpac(golden, mode):
    file = load_file(golden / "ranpac.safetensors")
    head = ridge_head(file, ridge=0.1 if mode == "fixed" else "auto")
    for task, classes in enumerate([[0, 1], [2, 3, 4], [5, 6]]):
        head.begin_task(classes)
        head.fit(file[f"task{task}.features"], file[f"task{task}.labels"].long())
        key = f"{mode}.task{task}"
        assert torch.allclose(head.weight.T, file[f"{key}.weight"], atol=2e-4)
        assert torch.allclose(head(file["test.features"]), file[f"{key}.logits"], atol=2e-4)
        if mode == "fixed":
            assert torch.allclose(head.gram.float(), file[f"{key}.G"], rtol=1e-5, atol=1e-4)
            seen = len(head.classes)
            assert torch.allclose(
                head.cross.float(), file[f"{key}.Q"][:, :seen], rtol=1e-5, atol=1e-4
            )
        else:
            assert float(head.chosen) == pytest.approx(float(file["auto.ridge"][task]))


def test_the_errors_of_the_ridge_search_agree_with_ranpac(golden):
    file = load_file(golden / "ranpac.safetensors")
    for task in range(3):
        rows = torch.relu(file[f"task{task}.features"] @ file["W_rand"]).double()
        targets = torch.nn.functional.one_hot(file[f"task{task}.labels"].long(), 7).double()
        _, errors = choose_ridge(rows, targets)
        large = [i for i, ridge in enumerate(RIDGES) if ridge >= 1e-3]
        expected = file["auto.val_losses"][task].double()
        assert torch.allclose(errors[large], expected[large], atol=4e-4)


def test_the_ridge_search_is_the_same_by_eigenvectors_and_by_cholesky():
    torch.manual_seed(0)
    z, y = torch.randn(30, 40).double(), torch.randn(30, 2).double()
    small, by_vectors = choose_ridge(z, y)
    wide = torch.cat([z, torch.zeros(30, 0)], 1)
    errors = []
    for ridge in RIDGES:
        w = solve_primal(wide[:24].T @ wide[:24], wide[:24].T @ y[:24], ridge)
        errors.append((wide[24:] @ w - y[24:]).square().mean())
    large = slice(5, None)
    assert torch.allclose(by_vectors[large], torch.stack(errors)[large], rtol=1e-4)
    assert small in RIDGES


@pytest.mark.parametrize("width", [5, 40], ids=["more-rows", "more-features"])
def test_leaving_one_out_is_a_fit_without_each_row(width):
    torch.manual_seed(0)
    z = torch.randn(12, width).double()
    y = torch.nn.functional.one_hot(torch.arange(12) % 3).double()
    candidates, by_ridge = (1e-3, 0.1, 1.0, 30.0), []
    for ridge in candidates:
        scale = ridge * float((z.T @ z).diagonal().mean())
        left = torch.stack(
            [
                y[i] - z[i] @ solve_primal(o.T @ o, o.T @ _without(y, i), scale)
                for i, o in ((i, _without(z, i)) for i in range(12))
            ]
        )
        by_ridge.append(left)
    chosen, residuals = leave_one_out(z, y, candidates)
    sums = [float(left.square().sum()) for left in by_ridge]
    assert chosen == candidates[sums.index(min(sums))]
    assert sums.index(min(sums)) > 0, "the smallest λ is not always the best"
    assert torch.allclose(residuals, by_ridge[candidates.index(chosen)], atol=1e-10)


def _without(rows: torch.Tensor, i: int) -> torch.Tensor:
    return rows[torch.arange(len(rows)) != i]


def test_a_ridge_head_says_the_error_of_each_sample_left_out_and_learns_nothing():
    head = RidgeHead(6, projection=20, ridge=0.5, seed=3)
    x, labels = torch.randn(8, 6), torch.tensor([7, 4] * 4)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    errors = head.left_out(x, labels)
    z = torch.relu(x @ head.expand.matrix).double()
    _, residuals = leave_one_out(z, torch.eye(2)[(labels == 7).long()].double())
    assert torch.allclose(errors, residuals.square().sum(dim=1), atol=1e-6)
    assert head.classes == []
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_ridge_changes_from_rows_to_gram_without_a_jump():
    torch.manual_seed(0)
    head = RidgeHead(6, projection=20, ridge=0.5, seed=3)
    rows, labels = [], []
    for task in range(4):
        head.begin_task([2 * task, 2 * task + 1])
        x, y = torch.randn(8, 6), torch.arange(8) % 2 + 2 * task
        head.fit(x, y)
        rows.append(x)
        labels.append(y)
        z = torch.relu(torch.cat(rows) @ head.expand.matrix).double()
        targets = torch.nn.functional.one_hot(torch.cat(labels)).double()
        weight = torch.linalg.solve(z.T @ z + 0.5 * torch.eye(20).double(), z.T @ targets)
        assert torch.allclose(head.weight.double(), weight, atol=1e-5)
        assert (len(head.rows) > 0) == (8 * (task + 1) < 20)


def test_the_projection_comes_from_a_seed_and_is_not_stored():
    head = RidgeHead(4, projection=9, seed=5)
    assert not any("matrix" in name for name in head.state_dict())
    other = RidgeHead(4, projection=9, seed=6)
    assert not torch.equal(head.expand.matrix, other.expand.matrix)
    head.begin_task([0, 1])
    head.fit(torch.randn(6, 4), torch.arange(6) % 2)
    other.restore(head.layout())
    other.load_state_dict(head.state_dict())
    assert torch.equal(head.expand.matrix, other.expand.matrix)
    x = torch.randn(3, 4)
    assert torch.equal(head(x), other(x))


@pytest.mark.parametrize("options", [{"ridge": 0.0}, {"projection": 0}])
def test_bad_settings_of_ridge(options):
    with pytest.raises(ConfigError):
        RidgeHead(4, **options)


def test_features_that_overflow_in_the_projection_are_refused_and_do_not_hang():
    head = RidgeHead(4, projection=9, seed=0)
    head.begin_task([0, 1])
    with pytest.raises(DataError, match="NaN or infinity"):
        head.fit(torch.full((6, 4), 3e38), torch.arange(6) % 2)
