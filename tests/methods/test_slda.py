"""SLDA against scikit-learn's discriminant analysis and a loop; order and cuts do not matter."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cpool.errors import ConfigError, DataError
from cpool.heads import SLDAHead
from cpool.methods import SLDA


def draw(n=60, classes=4, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    y = torch.randint(classes, (n,), generator=generator)
    y[:classes] = torch.arange(classes)
    centres = 2 * torch.randn(classes, width, generator=generator)
    return centres[y] + torch.randn(n, width, generator=generator) @ mix, y


def fitted(x, y, cuts=1, **options):
    head = SLDAHead(x.shape[1], **options)
    for part in torch.arange(len(y)).chunk(cuts):
        head.begin_task(sorted(set(y[part].tolist())))
        head.fit(x[part], y[part])
    return head


@pytest.mark.parametrize("cuts", [1, 5])
@pytest.mark.parametrize("shrinkage", [0.05, 0.6])
def test_it_is_the_discriminant_analysis_of_scikit_learn(cuts, shrinkage):
    x, y = draw()
    query = draw(seed=9)[0]
    peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    peer.fit(x.double().numpy(), y.numpy())
    head = fitted(x, y, cuts, shrinkage=shrinkage, target="trace", priors=True)
    order = [head.classes.index(c) for c in range(4)]
    logits = head(query)[:, order].double().numpy()
    assert np.allclose(logits, peer.decision_function(query.double().numpy()), rtol=1e-4, atol=1e-4)


def test_the_discriminants_of_the_paper_equal_a_loop():
    x, y = draw(n=30, classes=3, width=4)
    head, query = fitted(x, y, 3, shrinkage=0.01), draw(n=5, width=4, seed=3)[0]
    rows, labels = x.double().tolist(), y.tolist()
    means = {}
    for c in range(3):
        mine = [r for r, label in zip(rows, labels, strict=True) if label == c]
        means[c] = [sum(column) / len(mine) for column in zip(*mine, strict=True)]
    sigma = np.zeros((4, 4))
    for r, label in zip(rows, labels, strict=True):
        for i in range(4):
            for j in range(4):
                sigma[i, j] += (r[i] - means[label][i]) * (r[j] - means[label][j]) / 30
    precision = np.linalg.inv(0.99 * sigma + 0.01 * np.eye(4))
    assert np.allclose(head.covariance.numpy(), sigma, atol=1e-6)
    for b, q in enumerate(query.double().numpy()):
        for column, c in enumerate(head.classes):
            mean = np.array(means[c])
            score = mean @ precision @ q - 0.5 * mean @ precision @ mean
            assert float(head(query)[b, column]) == pytest.approx(score, rel=1e-4, abs=1e-4)


@given(seed=st.integers(0, 999), cuts=st.integers(2, 12), far=st.sampled_from([0.0, 1e3]))
@settings(max_examples=40)
def test_sequence_and_order_do_not_matter(seed, cuts, far):
    """`far` shifts all features: sums of squares would lose the covariance there."""
    x, y = draw(seed=seed)
    x = x.double() + far
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    once, parts = (SLDAHead(6, shrinkage=0.01) for _ in range(2))
    once.begin_task([0, 1, 2, 3])
    once.fit(x, y)
    for part in shuffled.chunk(cuts):
        parts.begin_task(sorted(set(y[part].tolist())))
        parts.fit(x[part], y[part])
    order = [parts.classes.index(c) for c in range(4)]
    assert torch.allclose(parts.means[order], once.means, rtol=1e-9, atol=1e-9)
    assert torch.allclose(parts.covariance, once.covariance, rtol=1e-7, atol=1e-7)
    assert torch.allclose(parts.weight[order], once.weight, rtol=1e-3, atol=1e-3 * (1 + far))


def test_the_update_of_the_paper_depends_on_the_order_and_this_one_does_not():
    """Two classes far from 0 without any spread: Σ is 0, the public code's is not."""
    x = torch.tensor([[10.0, 0.0], [10.0, 0.0], [0.0, 10.0], [0.0, 10.0]])
    y = torch.tensor([0, 0, 1, 1])
    sigma, mean, seen = torch.zeros(2, 2), torch.zeros(2, 2), [0, 0]
    for t, (row, label) in enumerate(zip(x, y.tolist(), strict=True)):
        gap = row - mean[label]
        sigma = (t * sigma + torch.outer(gap, gap) * t / (t + 1)) / (t + 1)
        seen[label] += 1
        mean[label] += gap / seen[label]
    assert sigma.abs().max() > 1
    assert fitted(x, y, 4, shrinkage=0.1).covariance.abs().max() == 0


def test_features_that_do_not_vary_give_the_nearest_mean():
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    for target in ("identity", "trace"):
        head = fitted(x, y, shrinkage=0.5, target=target)
        assert head(x).argmax(1).tolist() == [0, 1]


def test_a_class_without_samples_is_never_predicted():
    head = SLDAHead(2, priors=True)
    head.begin_task([0, 1])
    head.fit(torch.randn(4, 2), torch.zeros(4, dtype=torch.long))
    assert head(torch.randn(1, 2))[0, 1] == -math.inf
    assert torch.isfinite(head(torch.randn(1, 2))[0, 0])


def test_features_that_are_not_finite_are_refused():
    head = SLDAHead(2)
    head.begin_task([0])
    with pytest.raises(DataError, match="NaN or infinity in 1 of 2 rows"):
        head.fit(torch.tensor([[1.0, math.nan], [0.0, 0.0]]), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("shrinkage", [0.0, 1.5, float("nan")])
def test_bad_settings(shrinkage):
    with pytest.raises(ConfigError, match="shrinkage above 0"):
        SLDA(shrinkage=shrinkage)
    with pytest.raises(ConfigError, match="shrinkage above 0"):
        SLDAHead(2, shrinkage=shrinkage)
