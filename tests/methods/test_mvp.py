"""MVP against its equations in float64, and on a stream whose tasks share classes."""

import pytest
import torch

from cpool.errors import ConfigError
from cpool.heads import MaskedHead
from cpool.learner import Learner
from cpool.methods import MVP
from cpool.policies import Counted
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import EACH, stream
from tests.methods.naive_vit import batch, cosine, cross_entropy, encode, leaf, same, weights

SIZES = {"general_layers": (0,), "expert_layers": (2,), "general_length": 2, "expert_length": 3}


def built(**options):
    with seeded(0):
        model = MVP(pool_size=3, **SIZES, **options).build(tiny.backbone("vit"))
        model.begin_task([0, 1])
    model.mask = "seen"
    return model


def test_loss_selection_and_gradients():
    model = built(pull=0.7)
    model.begin_task([1, 2])  # class 1 comes again
    expert, general = (model.prompter.branches[name] for name in ("expert", "general"))
    expert.policy.count.copy_(torch.tensor([4.0, 0.0, 1.0]))
    with torch.no_grad():
        for mask in model.head.masks:
            mask += torch.randn(mask.shape)
    inputs = batch([2, 1, 2], seed=4)
    w = weights()
    values, shared = leaf(expert.pool.blocks[0]), leaf(general.pool.blocks[0])
    keys = leaf(expert.policy.keys.blocks[0])
    head, masks = (
        leaf(torch.cat(list(p), dim=d))
        for p, d in ((model.head.linear.weights, 0), (model.head.masks, 1))
    )
    used = [5.0, 1.0, 2.0]
    chosen, near, apart, logits = [], [], [], []
    for image in inputs["pixel_values"]:
        query = encode(w, image, lambda layer, state: None)
        distance = [1 - cosine(query, k) for k in keys]
        slot = min(range(3), key=lambda m, d=distance: float(d[m].detach()) * used[m])
        chosen.append(slot)
        near.append((distance[slot] / used[slot]).exp())
        apart.append(torch.stack([((1 - cosine(keys[slot], k)) / used[slot]).exp() for k in keys]))
        own = {0: shared[0], 2: values[slot]}
        feature = encode(w, image, lambda layer, state, own=own: own.get(layer))
        logits.append((head @ feature) * 2 / (1 + (-masks[slot]).exp()))
    near, apart, logits = torch.stack(near).mean(), torch.stack(apart).mean(), torch.stack(logits)
    key_loss = -0.7 * (apart / (near + apart) + 1e-6).log()
    wanted = cross_entropy(logits, [2, 1, 2]) + key_loss
    wanted.backward()

    out = model.train()(inputs, task=1)
    assert out.selections["expert"].index[:, 0].tolist() == chosen
    assert same(out.logits, logits) and same(out.losses["selection"], key_loss)
    assert same(out.loss, wanted)
    out.loss.backward()
    assert same(expert.pool.blocks[0].grad, values.grad)
    assert same(general.pool.blocks[0].grad, shared.grad)
    assert same(expert.policy.keys.blocks[0].grad, keys.grad)
    assert same(torch.cat([p.grad for p in model.head.masks], dim=1), masks.grad)
    assert same(torch.cat([p.grad for p in model.head.linear.weights]), head.grad)
    counts = [4, 0, 1]
    for slot in chosen:
        counts[slot] += 1
    assert expert.policy.count.tolist() == counts


@pytest.mark.parametrize("anchor", [0.0, 3.0])
def test_balance_weights_each_sample_and_shortens_features(anchor):
    """Gradients of the head are taken by autograd, sample by sample, as the paper has them."""
    alpha, gamma, margin = 0.7, 1.5, 0.4
    model = built(balance=True, alpha=alpha, gamma=gamma, margin=margin, pull=0.0)
    model.anchor = anchor
    model.begin_task([1, 2])
    inputs, labels = batch([2, 1, 2, 0], seed=4), [2, 1, 2, 0]
    with torch.no_grad():
        for mask in model.head.masks:
            mask += torch.randn(mask.shape)
    out = model.train()(inputs, task=1)
    features = leaf(out.features)
    slots = out.selections["expert"].index[:, 0].tolist()
    head = leaf(torch.cat(list(model.head.linear.weights)))
    masks = leaf(torch.cat(list(model.head.masks), dim=1))

    def single(row, feature, weight):
        logits = (weight @ feature) * 2 / (1 + (-masks[slots[row]]).exp())
        return -(logits[labels[row]].exp() / (anchor + logits.exp().sum())).log()

    def gradient(loss, weight):
        return torch.autograd.grad(loss, [weight])[0]

    copy = leaf(head)
    plain = [single(row, features[row].detach(), copy) for row in range(4)]
    whole = gradient(sum(plain) / 4, copy)
    wanted = 0
    for row, label in enumerate(labels):
        again = leaf(head)
        alone = gradient(single(row, features[row].detach(), again), again)
        ignored = 1 - cosine(alone[label], whole[label])
        scale = (1 - cosine(head[label].detach(), features[row].detach())) + margin
        weight = (1 - alpha) + alpha * ignored**gamma
        wanted = wanted + weight * single(row, features[row] / scale, head) / 4
    assert same(out.losses["cross_entropy"] + out.losses["imbalance"], wanted)
    assert float(out.losses["imbalance"].detach().abs()) > 1e-3
    wanted.backward()
    (ours,) = torch.autograd.grad(
        out.losses["cross_entropy"] + out.losses["imbalance"], [out.features], retain_graph=True
    )
    assert same(ours, features.grad)
    out.loss.backward()
    assert same(torch.cat([p.grad for p in model.head.linear.weights]), head.grad)
    assert same(torch.cat([p.grad for p in model.head.masks], dim=1), masks.grad)
    for wrong in ({"alpha": 1.5}, {"gamma": 0.0}, {"margin": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            MVP(**wrong)


def test_usage_spreads_the_choice_and_counts_only_in_training():
    with seeded(0):
        policy = Counted(4)
        policy.grow(2)
    with torch.no_grad():
        policy.keys.blocks[0].copy_(torch.tensor([[1.0, 0, 0, 0], [0.8, 0.6, 0, 0]]))
    query = torch.tensor([[0.9, 0.2, 0.1, 0.0]])
    first = [int(policy.train()(query, task=0).index) for _ in range(6)]
    assert set(first) == {0, 1}, "the nearest key alone would take all"
    count = policy.count.clone()
    at_test = policy.eval()(query)
    assert torch.equal(policy.count, count) and at_test.loss == 0
    policy.counted_at_test = False
    assert int(policy(query).index) == int(policy.nearness(query).new_tensor([0]).long())
    assert int(policy(query, available=torch.tensor([False, True])).index) == 1


def test_masks_grow_with_the_classes_and_keep_their_values():
    head = MaskedHead(4, slots=2)
    head.begin_task([3, 5])
    old = head.masks[0]
    head.begin_task([5, 3]), head.begin_task([9, 3])
    assert head.classes == [3, 5, 9] and head.masks[0] is old
    assert [tuple(m.shape) for m in head.masks] == [(2, 2), (2, 1)]
    start = head(torch.ones(1, 4), torch.tensor([1]))
    plain = head(torch.ones(1, 4))
    assert torch.allclose(start, plain * 2 * torch.sigmoid(torch.tensor(-1.0)))


def test_tasks_that_share_classes_are_learned_and_saved(tmp_path):
    """Blurry boundaries: class 0 is in every task, and no task adds a slot."""
    x, y = stream("vit").joint().train.x, stream("vit").joint().train.y
    with seeded(0):
        model = MVP(pool_size=3, **SIZES).build(tiny.backbone("vit"))
    learner = Learner(model, seed=0, batch_size=6, device="cpu", quiet=True)
    assert learner.train.mask == "seen"
    for part in ([0, 1], [0, 2, 3], [0, 1, 4, 5]):
        rows = [i for i, label in enumerate(y.tolist()) if label in part]
        learner.fit_task((x[rows], y[rows]))
    branch = model.prompter.branches["expert"]
    assert len(branch.pool) == 3 and learner.classes == [0, 1, 2, 3, 4, 5]
    assert int(branch.policy.count.sum()) == (2 + 3 + 4) * EACH
    assert all(p.requires_grad for p in branch.pool.blocks)
    learner.save(tmp_path)
    loaded = Learner.load(tmp_path, tiny.backbone("vit"), device="cpu", quiet=True)
    assert (loaded.predict_proba(x) == learner.predict_proba(x)).all()


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="pool_size"):
        MVP(pool_size=0)
    with pytest.raises(ConfigError, match="expert_layers"):
        MVP(expert_layers=())
    with pytest.raises(ConfigError, match="general_layers"):
        MVP(general_layers=(1, 1))
