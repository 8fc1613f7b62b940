"""Mixture: weights, sums and gradients against loops in float64; tasks; options."""

import math

import pytest
import torch

from cpool.errors import ConfigError
from cpool.policies import Mixture
from cpool.pool import PromptPool

WIDTH = 6


def grown(*sizes, **options):
    policy = Mixture(WIDTH, **options)
    for task, size in enumerate(sizes):
        policy.freeze_all()
        policy.grow(size, task)
    return policy


def naive_weights(query, keys, temperature, normalise, top):
    """Weights of all keys for one query; 0 where a key is not among the best."""
    cosines = [
        sum(a * b for a, b in zip(query, key, strict=True))
        / math.sqrt(sum(a * a for a in query) * sum(b * b for b in key))
        for key in keys
    ]
    ranked = sorted(range(len(keys)), key=lambda m: (-cosines[m], m))[:top]
    if normalise == "none":
        return [cosines[m] if m in ranked else 0.0 for m in range(len(keys))]
    parts = {m: math.exp(cosines[m] / temperature) for m in ranked}
    return [parts.get(m, 0.0) / sum(parts.values()) for m in range(len(keys))]


@pytest.mark.parametrize("normalise", ["softmax", "none"])
@pytest.mark.parametrize("top", [None, 1, 2])
def test_the_mixed_prompt_equals_a_loop_in_float64(normalise, top):
    policy = grown(2, 1, 2, temperature=0.3, normalise=normalise, top=top)
    pool, query = PromptPool(2, 3, 4), torch.randn(7, WIDTH)
    pool.grow(5)
    read = pool.gather(policy(query))
    keys, values = policy.keys().detach().double().tolist(), pool.values().detach().double()
    for row, got in zip(query.double().tolist(), read, strict=True):
        weights = naive_weights(row, keys, 0.3, normalise, top)
        expected = sum(w * v for w, v in zip(weights, values, strict=True))
        assert torch.allclose(got.double(), expected, atol=1e-6)


@pytest.mark.parametrize("normalise", ["softmax", "none"])
@pytest.mark.parametrize("top", [None, 3])
def test_gradients_equal_finite_differences_in_float64(normalise, top):
    policy = grown(3, 4, temperature=0.4, normalise=normalise, top=top)
    pool, query = PromptPool(1, 2, 4), torch.randn(5, WIDTH)
    pool.grow(3)
    pool.freeze_all()
    pool.grow(4)
    target = torch.randn(5, 1, 2, 4)
    (pool.gather(policy(query, task=1)) * target).sum().backward()
    assert policy.keys.blocks[0].grad is None and pool.blocks[0].grad is None

    def loss(keys, values):
        total = 0.0
        for b, row in enumerate(query.double().tolist()):
            weights = naive_weights(row, keys.tolist(), 0.4, normalise, top)
            mixed = sum(w * v for w, v in zip(weights, values, strict=True))
            total += float((mixed * target[b].double()).sum())
        return total

    keys = torch.cat([b.detach() for b in policy.keys.blocks]).double()
    values = torch.cat([b.detach() for b in pool.blocks]).double()
    for tensor, gradient in ((keys, policy.keys.blocks[1].grad), (values, pool.blocks[1].grad)):
        for place in range(0, gradient.numel(), 3):
            flat, step = tensor[3:].reshape(-1), 1e-6
            middle = float(flat[place])
            sides = []
            for side in (step, -step):
                tensor[3:].view(-1)[place] = middle + side
                sides.append(loss(keys, values))
            tensor[3:].view(-1)[place] = middle
            numeric = (sides[0] - sides[1]) / (2 * step)
            assert float(gradient.view(-1)[place]) == pytest.approx(numeric, abs=2e-5)


def test_training_mixes_the_slots_up_to_the_task_and_test_all_available():
    policy = grown(1, 2, 1)
    assert set(policy(torch.randn(3, WIDTH), task=1).index.flatten().tolist()) == {0, 1, 2}
    available = torch.tensor([True, False, True, True])
    assert set(policy(torch.randn(3, WIDTH), None, available).index.flatten().tolist()) == {0, 2, 3}


def test_the_pull_is_that_of_the_own_keys_only():
    policy, query = grown(2, 2, pull=0.5), torch.randn(9, WIDTH)
    loss = policy(query, task=1).loss
    keys = policy.keys().detach().double()[2:]
    rows = query.double()
    expected = sum(1 - float(r @ k / r.norm() / k.norm()) for r in rows for k in keys) / 18
    assert float(loss.detach()) == pytest.approx(0.5 * expected, abs=1e-6)
    assert float(policy.eval()(query).loss.detach()) == 0


def test_a_sample_is_mixed_the_same_alone_and_in_a_batch():
    policy, pool, query = grown(40, 41, top=3).eval(), PromptPool(1, 2, 4), torch.randn(33, WIDTH)
    pool.grow(40)
    pool.grow(41)
    with torch.no_grad():
        together = pool.gather(policy(query))
        alone = torch.cat([pool.gather(policy(row[None])) for row in query])
    assert torch.allclose(together, alone, atol=1e-6)
    order = torch.randperm(33)
    assert torch.allclose(pool.gather(policy(query[order])), together[order], atol=1e-6)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top": 0}, {"temperature": -1.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError, match="temperature above 0"):
        Mixture(4, **options)
