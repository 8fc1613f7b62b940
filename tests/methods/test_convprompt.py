"""ConvPrompt against its equations in float64: the convolutions as loops, the queries live."""

import pytest
import torch

from cpool.conv_pool import ConvPool
from cpool.errors import ConfigError, PoolError
from cpool.methods import ConvPrompt
from cpool.policies import Projected
from cpool.seeding import seeded
from cpool.selection import Selection
from tests import tiny
from tests.methods.naive_vit import batch, cosine, cross_entropy, encode, leaf, same, weights

HEADS, WIDE, LONG, K = tiny.HEADS, tiny.WIDTH // tiny.HEADS, 2, 3


def convolved(embedding, kernel):
    """Return [LONG WIDE] of one head: a sliding sum of products, and the shift."""
    rows = []
    for p in range(LONG):
        row = []
        for e in range(WIDE):
            total = kernel[K * K]
            for i in range(K):
                for j in range(K):
                    total = total + kernel[K * i + j] * embedding[p + i, e + j]
            row.append(total)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def after_one_task(**options):
    with seeded(0):
        made = ConvPrompt(layers=(0, 1, 2), slots_per_task=2, length=LONG, kernel=K, **options)
        model = made.build(tiny.backbone("vit"))
        model.begin_task([0, 1])
        model.train()(batch([0, 1, 1]), task=0)
        model.end_task()
        model.begin_task([2, 3])
    return model


def test_the_pool_is_a_convolution_of_each_slot():
    with seeded(1):
        pool = ConvPool(2, LONG, HEADS, WIDE, K)
        pool.grow(2), pool.grow(1)
    kernels = torch.cat(list(pool.blocks)).double()
    embedding = pool.embedding.double()
    values = pool.values()
    for m in range(3):
        for s in range(2):
            heads = [convolved(embedding[s, h], kernels[m, s, h]) for h in range(HEADS)]
            assert same(values[m, s], torch.cat(heads, dim=1))
    index = torch.tensor([[2, 0]])
    assert torch.allclose(pool.read(index), values[index], atol=1e-6)
    weight = torch.tensor([[0.3, -2.0]])
    mixed = pool.gather(Selection(index, weight, torch.zeros(())))
    assert same(mixed[0], (0.3 * values[2] - 2 * values[0]).double())
    side = pool.gather(Selection(index, None, torch.zeros(())))
    assert same(side[0], torch.cat([values[2], values[0]], dim=1).double())


def naive(model, inputs):
    w, parts = weights(), {}
    first = next(iter(model.prompter)).policy
    keys = [leaf(b) for b in first.keys.blocks]
    g = [leaf(p) for p in first.projection.parameters()]
    for branch in model.prompter:
        blocks = [leaf(b) for b in branch.pool.blocks]
        parts[branch.site.layers[0]] = (leaf(branch.pool.embedding), blocks)
    rows = []
    for image in inputs["pixel_values"]:

        def prefix(layer, state):
            if layer not in parts:
                return None
            embedding, blocks = parts[layer]
            query = state[0].detach()
            mapped = g[2] @ (g[0] @ query + g[1]).clamp_min(0) + g[3]
            pair = [torch.zeros(LONG, HEADS * WIDE, dtype=torch.float64) for _ in range(2)]
            for key, kernel in zip(torch.cat(keys), torch.cat(blocks), strict=True):
                share = cosine(mapped, key)
                for s in range(2):
                    heads = [convolved(embedding[s, h], kernel[s, h]) for h in range(HEADS)]
                    pair[s] = pair[s] + share * torch.cat(heads, dim=1)
            return pair[0], pair[1]

        rows.append(encode(w, image, prefix))
    head = leaf(torch.cat(list(model.head.weights)))
    bias = torch.cat(list(model.head.biases)).detach().double()
    return torch.stack(rows) @ head.T + bias, parts, keys, g


def test_loss_and_gradients():
    model = after_one_task(anchor=0.2)
    before = {n: p.detach().double().clone() for n, p in model.named_parameters()}
    shared = [n for n in before if "embedding" in n or "projection" in n]
    assert len(shared) == 3 + 4
    with torch.no_grad():  # as after a step of the second task
        for name, parameter in model.named_parameters():
            if name in shared:
                parameter += 0.01 * torch.randn(parameter.shape)
    inputs = batch([2, 3], seed=4)
    logits, parts, keys, g = naive(model, inputs)
    embeddings = [parts[layer][0] for layer in (0, 1, 2)]
    old = (
        [before[n] for n in shared if "embedding" in n],
        [before[n] for n in shared if "projection" in n],
    )
    moved = sum((a - b).abs().sum() for a, b in zip(embeddings + g, old[0] + old[1], strict=True))
    wanted = cross_entropy(logits, [2, 3], [2, 3]) + 0.2 * moved
    wanted.backward()
    out = model.train()(inputs, task=1)
    assert same(out.logits, logits) and same(out.loss, wanted)
    assert same(out.losses["anchor"], 0.2 * moved)
    out.loss.backward()
    first = next(iter(model.prompter)).policy
    assert same(first.keys.blocks[1].grad, keys[1].grad) and first.keys.blocks[0].grad is None
    for mine, theirs in zip(first.projection.parameters(), g, strict=True):
        assert same(mine.grad, theirs.grad)
    for branch in model.prompter:
        embedding, blocks = parts[branch.site.layers[0]]
        assert same(branch.pool.embedding.grad, embedding.grad)
        assert branch.pool.blocks[0].grad is None, "kernels of the first task are frozen"
        assert same(branch.pool.blocks[1].grad, blocks[1].grad)


def test_keys_and_projection_are_those_of_the_first_layer():
    model = after_one_task()
    first, *others = (branch.policy for branch in model.prompter)
    assert sum("keys" in name for name in model.state_dict()) == 2  # a block a task
    query = torch.randn(3, tiny.WIDTH)
    for other in others:
        assert torch.equal(first(query).weight, other(query).weight)
        assert len(other) == 4 and not list(other.parameters())


def test_new_keys_start_orthogonal_while_there_is_room():
    with seeded(0):
        policy = Projected(16)  # keys of width 4
        policy.grow(2), policy.grow(2), policy.grow(2)
    keys = policy.keys().detach()
    assert torch.allclose(keys[:4] @ keys[:4].T, torch.eye(4), atol=1e-5)
    assert torch.allclose(keys.norm(dim=1), torch.ones(6))


def test_one_pass_without_a_query():
    model = after_one_task().eval()
    assert not model.needs_query
    calls = []
    handle = model.backbone.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        with torch.no_grad():
            model(tiny.batch("vit", 3))
    finally:
        handle.remove()
    assert len(calls) == 1


def test_nothing_is_anchored_in_the_first_task():
    model = ConvPrompt(layers=(0,), slots_per_task=1, length=2, kernel=3).build(
        tiny.backbone("vit")
    )
    model.begin_task([0, 1])
    assert "anchor" not in model.train()(batch([0, 1]), task=0).losses


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="kernel"):
        ConvPrompt(kernel=0)
    with pytest.raises(ConfigError, match="anchor"):
        ConvPrompt(anchor=-1.0)
    with pytest.raises(PoolError, match="kernel"):
        ConvPool(2, 2, 2, 2, 0)
    with pytest.raises(PoolError, match="at least one slot"):
        ConvPool(2, 2, 2, 2, 3).values()
