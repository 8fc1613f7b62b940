"""OS-Prompt against its equations in float64, on a ViT written out for the test."""

import pytest
import torch

from cpool.backbones import wrap_model
from cpool.errors import ConfigError
from cpool.methods import OSPrompt
from cpool.seeding import seeded
from tests import tiny
from tests.methods.naive_vit import batch, cosine, cross_entropy, encode, leaf, same, weights


def after_one_task(**options):
    """Return a model in its second task, whose first task is frozen."""
    with seeded(0):
        model = OSPrompt(layers=(0, 2), slots_per_task=2, length=4, **options).build(
            tiny.backbone("vit")
        )
        model.begin_task([0, 1])
        model.train()(batch([0, 1, 1]), task=0)
        model.end_task()
        model.begin_task([2, 3])
    return model


def learned(branch):
    """Return the blocks of values, keys and, if there are any, attention vectors."""
    attention = branch.policy.attention
    blocks = [branch.pool.blocks, branch.policy.keys.blocks]
    return blocks if attention is None else [*blocks, attention.blocks]


def naive(model, inputs, reference):
    """Return the logits, the penalty and the query-pool term, and what they were computed from."""
    w, parts = weights(), {}
    for branch in model.prompter:
        layer = branch.site.layers[0]
        parts[layer] = [[leaf(b) for b in group] for group in learned(branch)]
    joined = {n: [torch.cat(group) for group in groups] for n, groups in parts.items()}
    gap = torch.zeros((), dtype=torch.float64)
    rows = []
    for image in inputs["pixel_values"]:
        far = encode(w, image, lambda layer, state: None)

        def prefix(layer, state, far=far):
            nonlocal gap
            if layer not in joined:
                return None
            values, keys, *attended = joined[layer]
            attention = attended[0] if attended else torch.ones_like(keys)
            query = state[0].detach()
            alpha = [cosine(query * a, k) for a, k in zip(attention, keys, strict=True)]
            mixed = sum(a * p[0] for a, p in zip(alpha, values, strict=True))
            if reference:
                alpha = torch.stack(alpha)
                other = torch.stack(
                    [cosine(far * a, k) for a, k in zip(attention, keys, strict=True)]
                )
                ours, wanted = alpha.exp() / alpha.exp().sum(), other.exp() / other.exp().sum()
                gap = gap + ((ours - wanted) ** 2).sum() / len(inputs["pixel_values"])
            return mixed[:2], mixed[2:]

        rows.append(encode(w, image, prefix))
    penalty = torch.zeros((), dtype=torch.float64)
    for groups in joined.values():
        for group in groups:
            flat = group.flatten(1)
            penalty = penalty + ((flat @ flat.T - torch.eye(len(flat))) ** 2).mean()
    head = [leaf(torch.cat(list(model.head.weights))), leaf(torch.cat(list(model.head.biases)))]
    features = torch.stack(rows)
    return features @ head[0].T + head[1], penalty, gap, parts, head


@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("reference", [False, True])
def test_loss_and_gradients(reference, attended):
    model = after_one_task(penalty=0.3, reference=reference, weight=0.7, attended=attended)
    inputs = batch([2, 3, 3], seed=4)
    logits, penalty, gap, parts, head = naive(model, inputs, reference)
    wanted = cross_entropy(logits, [2, 3, 3], [2, 3]) + 0.3 * penalty + 0.7 * gap
    wanted.backward()
    out = model.train()(inputs, task=1)
    assert same(out.logits, logits)
    assert same(out.loss, wanted)
    assert reference == (float(gap.detach()) > 1e-6) == ("query_pool" in out.losses)
    out.loss.backward()
    for branch in model.prompter:
        ours = learned(branch)
        for mine, theirs in zip(ours, parts[branch.site.layers[0]], strict=True):
            assert mine[0].grad is None, "components of the first task are frozen"
            assert same(mine[1].grad, theirs[1].grad)
    assert same(torch.cat([p.grad for p in model.head.weights]), head[0].grad)


def test_one_pass_and_no_query():
    """Also with the reference: that pass is run in training alone."""
    model = after_one_task(reference=True).eval()
    assert not model.needs_query
    calls = []
    handle = model.backbone.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        with torch.no_grad():
            model(tiny.batch("vit", 3))
    finally:
        handle.remove()
    assert len(calls) == 1


def test_the_later_query_sees_the_earlier_prefix():
    model = after_one_task().eval()
    inputs = tiny.batch("vit", 3)
    with torch.no_grad():
        model.prompter.branches["layer0"].pool.trained_steps += 1
        model.prompter.branches["layer2"].pool.trained_steps += 1
        before = model(inputs).selections["layer2"].weight
        model.prompter.branches["layer0"].pool.blocks[1] += 1
        assert not torch.allclose(model(inputs).selections["layer2"].weight, before, atol=1e-4)


def mixed(init, tasks):
    """Return how large the prefix of the first layer is after so many untrained tasks."""
    backbone = tiny.backbone("vit")
    with seeded(0):
        model = OSPrompt(layers=(0,), slots_per_task=2, length=4, init=init).build(backbone)
        for task in range(tasks):
            model.begin_task([task])
    branch = model.prompter.branches["layer0"]
    # What enters a layer is not normalised: here its numbers have a mean that is not 0.
    query = torch.randn(3, backbone.hidden_size, generator=torch.Generator().manual_seed(0)) + 1
    weight = branch.policy(query).weight
    return float((weight @ branch.pool.values().flatten(1)).detach().norm())


def test_the_sum_of_components_does_not_grow_as_fast_as_their_number():
    """From U(0, 1) all point one way: on fifty tasks of Omniglot nothing was learned in the end."""
    assert mixed("gram_schmidt", 32) < 8 * mixed("gram_schmidt", 2)
    assert mixed("uniform", 32) > 14 * mixed("uniform", 2)


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="length even"):
        OSPrompt(length=3)
    with pytest.raises(ConfigError, match="layers"):
        OSPrompt(layers=())
    wide = wrap_model(tiny.model("vit"), layers=(-2, -1))
    with pytest.raises(ConfigError, match="one hidden state"):
        OSPrompt(reference=True).build(wide)
    assert OSPrompt().build(wide).prompter is not None
