"""Prefixes that train through a network: the equation by loops, and what is left of it."""

import copy

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from cpool.errors import ConfigError, PoolError
from cpool.initialisers import from_values
from cpool.interop.peft import export_peft, read_peft
from cpool.learner import Learner
from cpool.methods import PrefixTuning
from cpool.policies import GaussianRouter
from cpool.prompter import Branch, PrefixSite
from cpool.selection import Selection
from cpool.through_pool import ThroughPool
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream
from tests.inject.test_prefix import CACHE
from tests.methods.test_language_methods import TEMPLATE, TEXTS, learner, words

INNER = 5


def naive(pool):
    """The prefix of the only new slot, token by token, from the tensors of its network."""
    first, _, second = pool.through
    (embeddings,) = pool.blocks[-1]
    tokens = []
    for e in embeddings:
        hidden = torch.tanh(first.weight @ e + first.bias)
        tokens.append((second.weight @ hidden + second.bias).view(pool.sites, pool.width))
    return torch.stack(tokens, dim=1)  # [S P W]


def new(tasks=1):
    pool = ThroughPool(4, 3, 6, inner=INNER)
    for task in range(tasks):
        pool.freeze_all()
        pool.grow(1, task=task)
        pool.double()
    return pool


def test_a_new_slot_is_the_network_of_its_embeddings_forward_and_gradient():
    pool = new(2)
    assert pool.blocks[1].dtype == torch.float64
    every = torch.stack([pool.blocks[0][0], naive(pool)])
    torch.testing.assert_close(pool.values(), every)
    torch.testing.assert_close(pool.read(torch.tensor([1, 1])), every[[1, 1]])
    index = torch.tensor([[1, 0], [0, 1]])
    torch.testing.assert_close(pool.read(index), every[index])
    weight = torch.tensor([[0.5, -1.0], [2.0, 0.25]], dtype=torch.float64)
    mixed = (weight[:, :, None, None, None] * every[index]).sum(dim=1)
    torch.testing.assert_close(pool.gather(Selection(index, weight, torch.zeros(()))), mixed)
    parameters = [pool.blocks[1], *pool.through.parameters()]
    goal = torch.randn_like(every)
    got = torch.autograd.grad((pool.values() * goal).sum(), parameters)
    wanted = torch.autograd.grad((every * goal).sum(), parameters)
    for one, two in zip(got, wanted, strict=True):
        assert two.abs().max() > 0
        torch.testing.assert_close(one, two)


def test_freezing_keeps_the_values_alone():
    pool = new()
    before = pool.values().detach().clone()
    network = dict(pool.named_parameters())
    optimizer = torch.optim.AdamW(pool.parameters(), lr=0.1, weight_decay=0.5)
    pool.freeze_all()
    assert torch.equal(pool.values(), before)
    assert torch.equal(pool.read(torch.tensor(0)), before[0])
    assert [name for name, _ in pool.named_parameters()] == ["blocks.0"]
    assert not pool.blocks[0].requires_grad
    for parameter in network.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # an optimiser that still holds the network reaches nothing
    pool.freeze_all()
    assert torch.equal(pool.values(), before)


def test_each_block_has_a_network_of_its_own():
    pool = new()
    first = pool.through
    with pytest.raises(PoolError, match="blocks are frozen"):
        pool.grow(1)
    pool.freeze_all()
    embeddings = torch.randn(2, 1, 3, 6)
    pool.grow(2, from_values(embeddings), task=1)
    assert pool.through is not first
    assert torch.equal(pool.blocks[1], embeddings[:, 0].double())
    with pytest.raises(PoolError, match="copies of others"):
        pool.start_from(1, 0)
    with pytest.raises(PoolError, match="copies of others; got ThroughPool"):
        through = ThroughPool(6, 3, 6, inner=2)
        Branch("p", through, GaussianRouter(4), PrefixSite((0, 1, 2), 2), per_task=1, nearest=True)


def test_the_prefix_is_that_of_the_network_in_the_model_too():
    """Against transformers' own cache, filled with what loops over the network give."""
    backbone = tiny.backbone("llama")
    method = PrefixTuning(
        length=3, labels=LABELS, template=TEMPLATE, init="random", through=INNER, slots="task"
    )
    model = method.build(backbone)
    model.begin_task([0, 1, 2, 3, 4, 5])
    pool = model.prompter.branches["prompt"].pool
    batch = {**model.prepare(TEXTS), "labels": torch.tensor([2, 5, 0])}
    output = model(batch, task=0)
    prefix = naive(pool)
    expected = []
    for text in TEXTS:
        ids = backbone.processor.encode(f"my {text} now", add_special_tokens=False)
        found = []
        for label in LABELS:
            cache = DynamicCache()
            for layer in range(backbone.num_layers):
                shape = (1, 3, backbone.num_kv_heads, backbone.head_dim)
                key, value = (prefix[2 * layer + i].view(shape).transpose(1, 2) for i in (0, 1))
                cache.update(key, value, layer)
            row = torch.tensor([ids + words(label)])
            states = backbone.plain_model(row, **{CACHE: cache}).last_hidden_state[0]
            table = (states @ backbone.lm_head.weight.T).log_softmax(dim=-1)
            at = range(len(ids) - 1, len(ids) - 1 + len(words(label)))
            found.append(sum(table[p, w] for p, w in zip(at, words(label), strict=True)))
        expected.append(torch.stack(found))
    logits = torch.stack(expected)
    torch.testing.assert_close(output.logits, logits, atol=2e-5, rtol=1e-5)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 5, 0]))
    parameters = list(model.parameters())
    assert len(parameters) == 5
    got = torch.autograd.grad(output.loss, parameters)
    wanted = torch.autograd.grad(loss, parameters)
    for one, two in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-3)


def test_the_network_counts_as_trained_and_is_not_stored(tmp_path):
    run = learner(PrefixTuning(length=3, labels=LABELS, init="random", through=INNER))
    tasks = stream("llama")
    run.fit_task(tasks[0])
    branch = run.model.prompter.branches["prompt"]
    kept = branch.pool.values()[0].detach().clone()
    run.fit_task(tasks[1])
    assert torch.equal(branch.pool.values()[0], kept)
    sites, width = 2 * tiny.DEPTH, tiny.WIDTH // 2
    network = INNER * (width + 1) + sites * width * (INNER + 1)
    assert run.trained.total == 2 * (3 * width + network)
    run.save(tmp_path)
    stored = [name for name in run.model.state_dict() if "pool." in name]
    assert not any("through" in name for name in stored)
    assert sum(block.numel() for block in branch.pool.blocks) == 2 * sites * 3 * width
    again = Learner.load(tmp_path, tiny.backbone("llama"), device="cpu", quiet=True)
    assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))
    again.fit_task(tasks[2])  # a loaded pool gets a new network
    assert torch.equal(again.model.prompter.branches["prompt"].pool.values()[0], kept)
    export_peft(branch, 1, tmp_path / "peft")
    assert torch.equal(read_peft(tmp_path / "peft").values, branch.pool.values()[1])


def test_half_a_task_is_the_same_after_loading():
    pool = new(2)
    again = ThroughPool(4, 3, 6, inner=INNER)
    again.restore(pool.layout())
    again.double()
    again.load_state_dict(pool.state_dict())
    assert torch.equal(again.values(), pool.values())
    frozen = copy.deepcopy(pool)
    frozen.freeze_all()
    again.restore(frozen.layout())
    again.double()
    again.load_state_dict(frozen.state_dict())
    assert torch.equal(again.values(), frozen.values())


def test_an_empty_pool_has_nothing_to_read():
    pool = ThroughPool(1, 2, 3, inner=4)
    for read in (pool.values, lambda: pool.read(torch.tensor([0]))):
        with pytest.raises(PoolError, match="at least one slot"):
            read()


@pytest.mark.parametrize(
    "options",
    [
        {"through": 0, "init": "random"},
        {"through": 8},
        {"through": 8, "init": "random", "slots": "shared"},
    ],
)
def test_wrong_settings_are_refused(options):
    with pytest.raises(ConfigError, match="through None, or at least 1 with"):
        PrefixTuning(**options)


def test_a_network_without_a_width_is_refused():
    with pytest.raises(PoolError, match="inner of at least 1"):
        ThroughPool(1, 2, 3, inner=0)
