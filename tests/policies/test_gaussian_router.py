"""GaussianRouter: distances by loops, additive statistics, posterior, eviction's union."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cpool.errors import ConfigError, DataError, PoolError
from cpool.policies import GaussianRouter

WIDTH = 5


def data(tasks=3, n=30, seed=0):
    rng = np.random.default_rng(seed)
    turn = rng.normal(size=(WIDTH, WIDTH))
    return [
        torch.tensor(rng.normal(size=(n + t, WIDTH)) @ turn + 2 * rng.normal(size=WIDTH)).float()
        for t in range(tasks)
    ]


def fitted(sets, **options):
    policy = GaussianRouter(WIDTH, normalize=False, **options)
    for task, rows in enumerate(sets):
        policy.grow(1, task=task)
        policy.end_task(rows, task)
    return policy.eval()


def naive_distances(sets, query, shrinkage):
    """Mahalanobis distances by the definition, in float64, with numpy's inverse."""
    sets = [rows.double().numpy() for rows in sets]
    scatter = np.zeros((WIDTH, WIDTH))
    for rows in sets:
        for row in rows:
            gap = row - rows.mean(axis=0)
            scatter += np.outer(gap, gap)
    covariance = scatter / (sum(map(len, sets)) - len(sets))
    sphere = np.trace(covariance) / WIDTH * np.eye(WIDTH)
    inverse = np.linalg.inv((1 - shrinkage) * covariance + shrinkage * sphere)
    gaps = [[q - rows.mean(axis=0) for rows in sets] for q in query.double().numpy()]
    return torch.tensor([[np.sqrt(g @ inverse @ g) for g in row] for row in gaps])


@pytest.mark.parametrize("shrinkage", [0.05, 0.5, 1.0])
def test_distances_equal_the_definition(shrinkage):
    sets, query = data(), torch.randn(11, WIDTH)
    policy = fitted(sets, shrinkage=shrinkage)
    expected = naive_distances(sets, query, shrinkage)
    assert torch.allclose(policy.distance(query), expected, atol=1e-8)
    assert torch.equal(policy(query).index[:, 0], expected.argmin(dim=1))
    nearest = expected.min(dim=1).values.float()
    assert torch.allclose(policy.nearness(query), -nearest, atol=1e-5)


def test_it_routes_as_linear_discriminant_analysis_of_scikit_learn():
    sets, query = data(4, 50), 3 * torch.randn(200, WIDTH)
    sets = [rows[:50] for rows in sets]
    labels = np.repeat(np.arange(4), 50)
    lda = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.25] * 4)
    lda.fit(torch.cat(sets).double().numpy(), labels)
    expected = torch.tensor(lda.predict(query.double().numpy()))
    assert torch.equal(fitted(sets, shrinkage=0.0)(query).index[:, 0], expected)


def test_statistics_add_up_in_any_order_and_in_pieces():
    sets, query = data(), torch.randn(9, WIDTH)
    whole = fitted(sets)
    pieces = GaussianRouter(WIDTH, normalize=False)
    for task in (2, 0, 1):
        pieces.grow(1, task=task)
        pieces.end_task(sets[task][:7], task)
    for task in (1, 2, 0):
        pieces.end_task(sets[task][7:], task)
    assert torch.allclose(pieces.scatter, whole.scatter, rtol=1e-10)
    assert pieces.seen.tolist() == whole.seen.tolist() == [93, 3]
    order = [2, 0, 1]
    assert torch.allclose(pieces.eval().distance(query), whole.distance(query)[:, order])


def test_soft_weights_the_best_two_by_posterior():
    sets, query = data(), torch.randn(11, WIDTH)
    chosen = fitted(sets, soft=True)(query)
    squared = naive_distances(sets, query, 0.1).square()
    for row, index, weight in zip(squared, chosen.index, chosen.weight, strict=True):
        best = sorted(range(3), key=lambda t, row=row: float(row[t]))[:2]
        parts = [float(torch.exp(-row[t] / 2 + row.min() / 2)) for t in best]
        assert index.tolist() == best
        assert weight.tolist() == pytest.approx([p / sum(parts) for p in parts], abs=1e-5)


def test_training_gets_the_own_slot_and_an_unfitted_one_is_never_chosen():
    sets = data(2)
    policy = fitted(sets, soft=True)
    policy.grow(1, task=2)
    query = torch.randn(6, WIDTH)
    assert policy.train()(query, task=2).index.tolist() == [[2]] * 6
    assert 2 not in policy.eval()(query).index
    one = fitted(sets[:1], soft=True)(query)
    assert one.index.tolist() == [[0]] * 6 and one.weight.tolist() == [[1.0]] * 6


def test_state_and_layout_make_the_same_router_and_load_drops_the_old_whitening():
    sets, query = data(), torch.randn(9, WIDTH)
    policy, other = fitted(sets), fitted(data(seed=5))
    other.distance(query)
    other.restore(policy.layout())
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other.distance(query), policy.distance(query))


def test_the_union_of_two_tasks_is_as_if_they_had_been_one():
    sets, query = data(), torch.randn(9, WIDTH)
    policy = fitted(sets)
    policy.recombine([[{0: 0.5, 2: 0.5}], [{1: 1.0}]])
    joined = fitted([torch.cat([sets[0], sets[2]]), sets[1]])
    assert torch.allclose(policy.distance(query), joined.distance(query))
    assert policy.seen.tolist() == joined.seen.tolist()
    with pytest.raises(PoolError, match="kept, dropped or merged"):
        policy.recombine([[{0: 0.5, 1: 0.5}, {0: 1.5, 1: -0.5}]])


def test_fewer_queries_than_dimensions_still_route():
    policy = GaussianRouter(64, shrinkage=0.0)
    for task in range(2):
        policy.grow(1, task=task)
        policy.end_task(torch.eye(64)[3 * task : 3 * task + 3], task)
    assert policy.eval()(torch.eye(64)[[0, 4]]).index.tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda p: p.grow(2, task=7), PoolError),
        (lambda p: p.grow(1), PoolError),
        (lambda p: p.grow(1, task=0), PoolError),
        (lambda p: p.end_task(torch.zeros(0, WIDTH), 0), DataError),
        (lambda p: GaussianRouter(4, shrinkage=1.1), ConfigError),
    ],
)
def test_bad_calls_say_what_is_wrong(call, error):
    with pytest.raises(error, match="expected"):
        call(fitted(data()))
