"""PEZ, against loops over the vocabulary and steps by hand, and as the hard prompt that it is."""

import numpy as np
import pytest
import torch

from cpool.errors import ConfigError, PoolError
from cpool.hard_pool import HardPool
from cpool.initialisers import uniform
from cpool.learner import Learner
from cpool.methods import HardPromptTuning, PromptTuning, ZeroShot, words_of_slot
from cpool.optimise import make_optimizer
from cpool.policies import GaussianRouter
from cpool.prompter import Branch, EmbeddingSite
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream
from tests.methods.test_language_methods import scores

TEMPLATE = "my {{ text }} now"
TEXTS = ["the cat sleeps", "a bird flies in the house", "help"]


def nearest(row: torch.Tensor, table: torch.Tensor, banned: set[int]) -> int:
    """Return the row of a table with the largest cosine, by a loop in float64."""
    best, found = -2.0, -1
    for number, word in enumerate(table.double()):
        cosine = float(row.double() @ word / row.double().norm() / word.norm())
        if number not in banned and cosine > best:
            best, found = cosine, number
    return found


def test_a_slot_is_read_as_its_nearest_words_and_the_gradient_passes() -> None:
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(40, 8, generator=rng) * torch.rand(40, 1, generator=rng)
    banned = {3, 7, 20}
    with seeded(0, "pool"):
        pool = HardPool(5, 8, uniform(), lambda: table, banned=sorted(banned))
        pool.grow(3)
        pool.freeze(0)
        pool.grow(2)
    own = pool.blocks[1]
    ids = [[nearest(row, table, banned) for row in slot[0]] for slot in own.detach()]
    weight = torch.randn(2, 1, 5, 8, generator=rng)
    for read in (pool.values()[3:], pool.read(torch.tensor([3, 4]))):
        assert torch.equal(read, table[torch.tensor(ids)][:, None])
        (gradient,) = torch.autograd.grad((read.square() * weight).sum(), [own])
        # That of the words, 2 w e, and not that of what they stand for.
        torch.testing.assert_close(gradient, 2 * weight * table[torch.tensor(ids)][:, None])
    assert [pool.words(slot).tolist() for slot in (3, 4)] == ids
    assert torch.equal(
        pool.blocks[0], table[torch.stack([pool.words(s) for s in range(3)])][:, None]
    )
    before, kept = pool.values().detach().clone(), own.detach().clone()
    pool.freeze_all()
    assert torch.equal(pool.values(), before)
    assert not torch.equal(pool.blocks[1], kept)
    pool.freeze_all()
    assert torch.equal(pool.values(), before)


def test_banned_words_are_never_taken() -> None:
    table = torch.eye(4)
    pool = HardPool(1, 4, lambda shape: table[2].expand(shape), lambda: table, banned=[2, 0])
    pool.grow(1)
    assert pool.words(0).tolist()[0] in (1, 3)
    with pytest.raises(PoolError, match="not all of them banned"):
        HardPool(1, 4, uniform(), lambda: table, banned=[0, 1, 2, 3])
    with pytest.raises(PoolError, match="a table of words of width 5"):
        HardPool(1, 5, uniform(), lambda: table)


def test_steps_are_those_of_the_algorithm() -> None:
    """Gradient at the projection, applied to the continuous prompt, over eight steps of AdamW."""
    backbone = tiny.backbone("llama")
    method = HardPromptTuning(length=3, labels=LABELS, template=TEMPLATE, slots="shared")
    with seeded(0, "build"):
        model = method.build(backbone)
        model.begin_task(range(6))
    target = torch.tensor([2, 5, 0])
    batch = {**model.prepare(TEXTS), "labels": target}
    (prompt,) = list(model.parameters())
    table = backbone.plain_model.get_input_embeddings().weight
    banned = set(backbone.processor.all_special_ids)
    own = torch.nn.Parameter(prompt.detach()[0, 0].clone())
    optimizer = make_optimizer(model, method.settings.but(lr=0.3))
    plain = torch.optim.AdamW([own], lr=0.3, weight_decay=0.1)
    seen = set()
    for _ in range(8):
        loss = model(batch, task=0).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ids = [nearest(row, table.detach(), banned) for row in own.detach()]
        seen.add(tuple(ids))
        hard = table.detach()[ids].clone().requires_grad_()
        logits = torch.stack([scores(f"my {t} now", LABELS, hard) for t in TEXTS])
        wanted = torch.nn.functional.cross_entropy(logits, target)
        torch.testing.assert_close(loss.detach(), wanted.detach(), atol=1e-5, rtol=1e-5)
        (own.grad,) = torch.autograd.grad(wanted, [hard])
        plain.step()
        torch.testing.assert_close(prompt[0, 0], own, atol=1e-3, rtol=1e-3)
    assert len(seen) > 1  # the words do change


def test_what_is_learned_is_a_hard_prompt_that_can_be_read(tmp_path) -> None:
    backbone = tiny.backbone("llama")
    with seeded(0, "build"):
        model = HardPromptTuning(length=3, labels=LABELS, template=TEMPLATE).build(backbone)
    run = Learner(model, seed=0, device="cpu", quiet=True, epochs=2, batch_size=6)
    tasks = stream("llama")
    run.run(tasks, tmp_path)
    again = Learner.load(tmp_path, backbone, device="cpu", quiet=True)
    assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))
    for slot, task in enumerate(tasks):
        words = words_of_slot(again.model, slot)
        assert words == words_of_slot(model, slot)
        assert len(words) == 3
        assert not set(words) & set(tiny.SPECIAL)
        hard = ZeroShot(labels=LABELS, template=f"{' '.join(words)} {TEMPLATE}").build(backbone)
        hard.begin_task(range(6))
        hard.eval()
        own = list(task.classes)
        columns = [run.classes.index(c) for c in own]
        with torch.no_grad():
            told = model.eval()(model.prepare(TEXTS), task=slot).logits[:, columns]
            torch.testing.assert_close(
                told, hard(hard.prepare(TEXTS)).logits[:, own], atol=2e-5, rtol=1e-5
            )


def test_words_are_asked_of_a_pool_of_words() -> None:
    backbone = tiny.backbone("llama")
    soft = PromptTuning(length=2, labels=LABELS).build(backbone)
    with pytest.raises(PoolError, match="one pool of words"):
        words_of_slot(soft)
    hard = HardPromptTuning(length=2, labels=LABELS).build(backbone)
    hard.begin_task([0])
    with pytest.raises(PoolError, match="a slot number below 1"):
        words_of_slot(hard, 1)
    with pytest.raises(ConfigError, match="length at least 1"):
        HardPromptTuning(length=0)


def some_words(blocks: int = 3) -> tuple[HardPool, torch.Tensor]:
    """Return a pool whose last block trains, and its table."""
    with seeded(0, "pool"):
        table = torch.randn(40, 8)
        pool = HardPool(2, 8, uniform(), lambda: table)
        for task in range(blocks):
            pool.freeze_all()
            pool.grow(1, task=task)
    return pool, table


def test_words_do_not_hang_on_what_an_optimiser_may_move() -> None:
    pool, table = some_words()
    before = pool.values().detach().clone()
    pool.requires_grad_(False)
    for read in (pool.values(), pool.read(torch.arange(3))):
        assert torch.equal(read, before)
    # A slot that training left as it was is still no word when it is saved and loaded.
    other = HardPool(2, 8, uniform(), lambda: table)
    other.restore(pool.layout())
    other.load_state_dict(pool.state_dict())
    assert torch.equal(other.values(), before)


def test_mixed_precision_trains_on_the_words_that_freezing_keeps() -> None:
    with seeded(0, "pool"):
        table = torch.randn(20000, 256)
        pool = HardPool(200, 256, uniform(), lambda: table)
        pool.grow(1)
    with torch.autocast("cpu", torch.bfloat16):
        trained = pool.values().detach().clone()
        near = pool.blocks[0].flatten(0, 2) @ table.T / table.norm(dim=1)
    assert not torch.equal(table[near.argmax(dim=1)], trained.flatten(0, 2)), "no row is unclear"
    pool.freeze_all()
    assert torch.equal(pool.values(), trained)


def test_words_are_dropped_but_never_averaged() -> None:
    pool, _ = some_words()
    before = pool.values().detach().clone()
    with pytest.raises(PoolError, match="HardPool, whose sum would be no slot"):
        pool.recombine([[{0: 0.5, 1: 0.5}], [{2: 1.0}]])
    pool.recombine([[{1: 1.0}], [{2: 1.0}]])
    assert torch.equal(pool.values(), before[1:])
    pool.freeze_all()
    assert torch.equal(pool.values(), before[1:])
    with pytest.raises(PoolError, match="Evict by"):
        Branch(
            "words",
            HardPool(2, 8, uniform(), lambda: torch.randn(9, 8)),
            GaussianRouter(4),
            EmbeddingSite(),
            per_task=1,
            capacity=2,
            evict="merge",
        )
