"""Novelty, thresholds and their calibration, on every policy that has keys."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cpool.errors import ConfigError, DataError, PoolError
from cpool.learner import Learner
from cpool.methods import L2P, SPrompts
from cpool.policies import (
    Everything,
    GaussianRouter,
    Mixture,
    NearestCentroid,
    TopK,
    novelty,
    threshold_for,
)
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import stream

WIDTH = 8
KINDS = {
    "top_k": lambda **o: TopK(WIDTH, 2, start="queries", **o),
    "mixture": lambda **o: Mixture(WIDTH, start="queries", **o),
    "nearest_centroid": lambda **o: NearestCentroid(WIDTH, 2, **o),
    "gaussian_router": lambda **o: GaussianRouter(WIDTH, **o),
}


def near(task, n=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.eye(WIDTH)[task] + 0.3 * torch.randn(n, WIDTH, generator=generator)


def far(n=60):
    return 3 * torch.eye(WIDTH)[torch.arange(n) % 2 + 5] + 0.3 * torch.randn(n, WIDTH)


def fitted(kind, **options):
    policy = KINDS[kind](**options)
    per_task = 2 if kind == "top_k" else 1
    for task in range(3):
        policy.grow(per_task, task=task)
        policy.start_task(near(task), task)
        policy.end_task(near(task), task)
    return policy.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_novelty_is_larger_far_from_all_keys(kind):
    policy = fitted(kind)
    known, new = torch.cat([near(t, seed=1) for t in range(3)]), far()
    score = novelty(policy, torch.cat([known, new])).numpy()
    labels = np.r_[np.zeros(180), np.ones(60)]
    assert roc_auc_score(labels, score) > 0.99


def test_novelty_of_top_k_is_minus_the_largest_cosine():
    policy, query = fitted("top_k"), torch.randn(9, WIDTH)
    keys = policy.keys().detach().double()
    for row, got in zip(query.double(), novelty(policy, query), strict=True):
        assert float(got) == pytest.approx(
            -max(float(row @ k / row.norm() / k.norm()) for k in keys), abs=1e-6
        )


@pytest.mark.parametrize("kind", KINDS)
def test_novelty_looks_at_available_slots_only(kind):
    policy = fitted(kind)
    available = policy.owner != 1
    fewer = novelty(policy, near(1), available)
    assert (fewer > novelty(policy, near(1))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_threshold_says_what_fits_at_test_and_nothing_in_training(kind):
    limit = threshold_for(fitted(kind), torch.cat([near(t, seed=1) for t in range(3)]))
    policy = fitted(kind, threshold=limit)
    query = torch.cat([near(0, seed=2), far()])
    chosen = policy(query)
    assert torch.equal(chosen.fits, policy.nearness(query) >= limit)
    assert chosen.fits[:60].float().mean() > 0.8 and not chosen.fits[60:].any()
    alone = torch.cat([policy(row[None]).fits for row in query])
    assert torch.equal(alone, chosen.fits)
    assert torch.equal(chosen.index, fitted(kind)(query).index), "the choice is the same"
    assert policy.train()(query, task=2).fits is None
    assert fitted(kind)(query).fits is None


@pytest.mark.parametrize("rejected", [0.0, 0.05, 0.1, 0.33, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_calibration_rejects_no_more_than_wished_and_not_less_than_it_can(kind, rejected):
    policy, held_out = fitted(kind), torch.cat([near(t, n=27, seed=1) for t in range(3)])
    limit = threshold_for(policy, held_out, rejected)
    below = int((policy.nearness(held_out) < limit).sum())
    assert below == int(rejected * 81), "the 81 queries differ, so the count is exact"


def test_a_policy_without_keys_has_no_novelty_and_bad_calibrations_are_refused():
    policy = Everything()
    policy.grow(1)
    with pytest.raises(PoolError, match="keys or centroids"):
        novelty(policy, torch.randn(2, WIDTH))
    with pytest.raises(DataError, match="calibrate"):
        threshold_for(fitted("top_k"), torch.zeros(0, WIDTH))
    with pytest.raises(ConfigError, match="share"):
        threshold_for(fitted("top_k"), torch.randn(3, WIDTH), 1.0)


@pytest.mark.parametrize("method", [L2P(slots_per_task=2, top_k=2), SPrompts(centroids=2)])
def test_a_calibrated_threshold_is_saved_with_the_model(method, tmp_path):
    with seeded(0, "build"):
        model = method.build(tiny.backbone("vit"))
    learner = Learner(model, epochs=1, batch_size=8, device="cpu", quiet=True)
    tasks = stream("vit")
    for task in tasks:
        learner.fit_task(task)
    plain = learner.explain(tasks[0].test.x)
    for branch in model.prompter:
        branch.policy.threshold = torch.tensor(0.9999 if method.name == "l2p" else -1e-6)
    bare = learner.predict_proba(tasks[0].test.x)
    assert not np.allclose(bare, plain.probabilities)
    learner.save(tmp_path)
    again = Learner.load(tmp_path, tiny.backbone("vit"), device="cpu", quiet=True)
    assert [b.policy.threshold for b in again.model.prompter] == [
        pytest.approx(float(b.policy.threshold)) for b in model.prompter
    ]
    np.testing.assert_array_equal(again.predict_proba(tasks[0].test.x), bare)


def test_a_checkpoint_without_a_threshold_keeps_that_of_the_policy():
    policy = fitted("top_k", threshold=0.5)
    layout = policy.layout()
    del layout["threshold"]  # as older versions wrote it
    again = KINDS["top_k"](threshold=0.5)
    again.restore(layout)
    assert again.threshold == 0.5
