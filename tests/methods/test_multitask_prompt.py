"""Multitask prompt tuning: its equation by loops, what freezes when, growth, files, PEFT."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cpool.errors import ConfigError, PoolError
from cpool.experiment.inspect import inspect_checkpoint
from cpool.initialisers import from_values, normal
from cpool.interop.peft import export_peft, read_peft
from cpool.learner import Learner
from cpool.low_rank_pool import LowRankPool
from cpool.methods import MultitaskPromptTuning, PromptTuning
from cpool.selection import Selection
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream
from tests.interop.test_peft import GOLDEN
from tests.methods.test_language_methods import TEMPLATE, TEXTS, learner, scores


def naive(pool, slot):
    """P* ⊙ (u v), number by number, in the precision of the pool."""
    factors = torch.cat(list(pool.blocks))[slot]
    sites, ranks, _ = factors.shape
    rows = []
    for s in range(sites):
        for p in range(pool.length):
            for w in range(pool.width):
                outer = sum(factors[s, j, p] * factors[s, j, pool.length + w] for j in range(ranks))
                rows.append(pool.shared[s, p, w] * outer)
    return torch.stack(rows).view(sites, pool.length, pool.width)


def grown(blocks=3, rank=2, sites=2, shared_blocks=1):
    pool = LowRankPool(sites, 3, 4, normal(1.0), rank=rank, shared_blocks=shared_blocks)
    for task in range(blocks):
        pool.freeze_all()
        pool.grow(1, task=task)
        with torch.no_grad():
            pool.blocks[-1].normal_()
    return pool.double()


@pytest.mark.parametrize("rank", [1, 3])
def test_slots_are_the_equation_forward_and_gradient(rank):
    pool = grown(rank=rank, shared_blocks=4)
    every = torch.stack([naive(pool, slot) for slot in range(3)])
    torch.testing.assert_close(pool.values(), every)
    index = torch.tensor([[2, 0], [1, 2]])
    torch.testing.assert_close(pool.read(index), every[index])
    weight = torch.tensor([[0.5, -1.0], [2.0, 0.25]], dtype=torch.float64)
    mixed = (weight[:, :, None, None, None] * every[index]).sum(dim=1)
    nothing = torch.zeros(())
    torch.testing.assert_close(pool.gather(Selection(index, weight, nothing)), mixed)
    parameters = [pool.shared, pool.blocks[2]]
    goal = torch.randn_like(mixed)
    got = torch.autograd.grad((pool.read(index)[:, 0] * goal).sum(), parameters)
    wanted = torch.autograd.grad((every[index][:, 0] * goal).sum(), parameters)
    for one, two in zip(got, wanted, strict=True):
        assert two.abs().max() > 0
        torch.testing.assert_close(one, two)


def test_the_model_computes_its_equation_loss_and_gradient():
    method = MultitaskPromptTuning(length=3, rank=2, labels=LABELS, template=TEMPLATE)
    model = method.build(tiny.backbone("llama"))
    model.begin_task([0, 1, 2, 3, 4, 5])
    pool = model.prompter.branches["prompt"].pool
    with torch.no_grad():
        pool.blocks[0].add_(0.3 * torch.randn_like(pool.blocks[0]))
    batch = {**model.prepare(TEXTS), "labels": torch.tensor([2, 5, 0])}
    output = model(batch, task=0)
    prompt = naive(pool, 0)[0]
    expected = torch.stack([scores(f"my {t} now", LABELS, prompt) for t in TEXTS])
    torch.testing.assert_close(output.logits, expected, atol=2e-5, rtol=1e-5)
    loss = torch.nn.functional.cross_entropy(expected, torch.tensor([2, 5, 0]))
    trained = dict(model.named_parameters())
    assert set(trained) == {f"prompter.branches.prompt.pool.{n}" for n in ("shared", "blocks.0")}
    got = torch.autograd.grad(output.loss, list(trained.values()))
    wanted = torch.autograd.grad(loss, list(trained.values()))
    for one, two in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_first_task_starts_from_the_shared_prompt_and_every_rank_learns(rank):
    text = "the red house"
    options = {"length": None, "init": "text", "text": text, "labels": LABELS}
    model = MultitaskPromptTuning(rank=rank, **options).build(tiny.backbone("llama"))
    plain = PromptTuning(**options).build(tiny.backbone("llama"))
    model.begin_task(range(6))
    plain.begin_task(range(6))
    pool = model.prompter.branches["prompt"].pool
    assert torch.equal(pool.values(), plain.prompter.branches["prompt"].pool.values())
    assert torch.equal(pool.values()[0], pool.shared)
    batch = {**model.prepare(TEXTS), "labels": torch.tensor([0, 1, 2])}
    model(batch, task=0).loss.backward()
    assert pool.blocks[0].grad.abs().amax(dim=-1).min() > 0  # of each rank


@pytest.mark.parametrize("shared_tasks", [1, 2])
def test_prompts_stay_once_the_shared_one_is_frozen_and_move_before(shared_tasks):
    method = MultitaskPromptTuning(
        length=2, labels=LABELS, template=TEMPLATE, shared_tasks=shared_tasks
    )
    run, tasks = learner(method), stream("llama")
    pool = run.model.prompter.branches["prompt"].pool
    run.fit_task(tasks[0])
    first, shared = pool.values()[0].detach().clone(), pool.shared.detach().clone()
    assert pool.shared.requires_grad == (shared_tasks > 1)
    run.fit_task(tasks[1])
    assert torch.equal(pool.values()[0], first) == (shared_tasks == 1)
    assert torch.equal(pool.shared, shared) == (shared_tasks == 1)
    assert not pool.shared.requires_grad
    old = pool.values()[:2].detach().clone()
    told = run.predictor.predict(tasks[0].test, 0).probabilities
    run.fit_task(tasks[2])
    assert torch.equal(pool.values()[:2], old)
    again = run.predictor.predict(tasks[0].test, 0).probabilities
    np.testing.assert_allclose(again[:, :2], told[:, :2], atol=1e-6)


def test_a_new_task_starts_from_the_mean_of_all_factors():
    pool = grown(3)
    pool.freeze_all()
    older = [block.detach().clone() for block in pool.blocks]
    pool.grow(2, task=3)
    assert pool.blocks[3].dtype == torch.float64
    for row in pool.blocks[3]:
        torch.testing.assert_close(row, (older[0] + older[1] + older[2])[0] / 3)
    given = torch.randn(1, 2, 2, 7)
    pool.grow(1, from_values(given))
    assert torch.equal(pool.blocks[4], given.double())


def test_a_task_keeps_few_numbers_of_its_own(tmp_path):
    run = learner(MultitaskPromptTuning(length=5, labels=LABELS, rank=2, shared_tasks=2))
    run.run(stream("llama"), tmp_path)
    pool = run.model.prompter.branches["prompt"].pool
    assert sum(block.numel() for block in pool.blocks) == 3 * 2 * (5 + tiny.WIDTH)
    assert run.trained.total == 3 * 2 * (5 + tiny.WIDTH) + 5 * tiny.WIDTH
    again = Learner.load(tmp_path, tiny.backbone("llama"), device="cpu", quiet=True)
    loaded = again.model.prompter.branches["prompt"].pool
    assert torch.equal(loaded.values(), pool.values())
    assert not loaded.shared.requires_grad
    assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))
    (view,) = inspect_checkpoint(tmp_path).branches
    assert view.shape == (1, 5, tiny.WIDTH)


def test_a_pool_that_still_shares_is_the_same_after_loading():
    pool = grown(1, shared_blocks=3)
    again = LowRankPool(2, 3, 4, rank=2, shared_blocks=3).double()
    again.restore(pool.layout())
    again.load_state_dict(pool.state_dict())
    assert torch.equal(again.values(), pool.values())
    assert again.shared.requires_grad and again.blocks[0].requires_grad


def test_a_slot_is_an_adapter_and_factors_of_peft_are_those_of_a_pool(tmp_path):
    run = learner(MultitaskPromptTuning(length=3, labels=LABELS))
    run.fit_task(stream("llama")[0])
    branch = run.model.prompter.branches["prompt"]
    export_peft(branch, 0, tmp_path)
    assert torch.equal(read_peft(tmp_path).values, branch.pool.values()[0])
    # The factors that PEFT trained, as it stores them, make the prompts that PEFT makes of them.
    folder = GOLDEN / "llama_multitask_prompt_tuning"
    theirs = load_file(folder / "adapter_model.safetensors")
    columns, rows = theirs["prefix_task_cols"], theirs["prefix_task_rows"]
    prompt = theirs["prompt_embeddings"]
    pool = LowRankPool(1, *prompt.shape, from_values(prompt[None, None]), rank=rows.shape[1])
    factors = torch.cat([columns.transpose(1, 2), rows], dim=2)[:, None]
    pool.grow(len(rows), from_values(factors))
    for task in range(len(rows)):
        torch.testing.assert_close(pool.values()[task], read_peft(folder, task=task).values)


def test_slots_are_dropped_but_never_added_up():
    pool = grown(3)
    kept = pool.values()[2].detach().clone()
    with pytest.raises(PoolError, match="kept or dropped as they are"):
        pool.recombine([[{0: 0.5, 1: 0.5}]])
    pool.recombine([[{2: 1.0}]])
    assert torch.equal(pool.values()[0], kept)


def test_the_shared_prompt_is_frozen_in_time_where_slots_are_evicted():
    """Blocks are counted as they are frozen: eviction numbers those that are left anew."""
    pool = grown(1, shared_blocks=3)
    for task in range(1, 3):
        pool.freeze_all()
        pool.grow(1, task=task)
        pool.recombine([[{len(pool) - 1: 1.0}]])
        assert pool.shared.requires_grad
    pool.freeze_all()
    assert not pool.shared.requires_grad
    again = LowRankPool(2, 3, 4, rank=2, shared_blocks=3)
    again.restore(pool.layout())
    assert not again.shared.requires_grad
    assert again.layout()["trained"] == pool.layout()["trained"] == 3


def test_an_empty_pool_has_nothing_to_read():
    pool = LowRankPool(1, 2, 3)
    for read in (pool.values, lambda: pool.read(torch.tensor([0]))):
        with pytest.raises(PoolError, match="at least one slot"):
            read()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: MultitaskPromptTuning(rank=0), ConfigError, "rank at least 1"),
        (lambda: MultitaskPromptTuning(shared_tasks=0), ConfigError, "shared_tasks at least 1"),
        (lambda: MultitaskPromptTuning(length=None), ConfigError, 'None with init "text"'),
        (lambda: LowRankPool(1, 2, 3, rank=0), PoolError, "rank and shared_blocks"),
        (lambda: LowRankPool(1, 2, 3, shared_blocks=0), PoolError, "rank and shared_blocks"),
    ],
)
def test_wrong_settings_are_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()
