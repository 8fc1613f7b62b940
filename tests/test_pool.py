"""The pool: growth, structural freezing, one indexed read, provenance, initialisers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpool.errors import PoolError
from cpool.initialisers import (
    constant,
    from_slot,
    from_values,
    from_vocabulary,
    mean_of_slots,
    normal,
    uniform,
)
from cpool.pool import PromptPool
from cpool.selection import Selection


def make(blocks: tuple[int, ...] = (3, 2), sites: int = 2, length: int = 4, width: int = 6):
    pool = PromptPool(sites, length, width)
    for task, n in enumerate(blocks):
        pool.grow(n, task=task)
    return pool


def select(index, weight=None):
    weight = None if weight is None else torch.tensor(weight)
    return Selection(torch.tensor(index), weight, torch.zeros(()))


def test_a_grown_block_is_a_parameter_of_its_own():
    pool = make()
    assert [tuple(b.shape) for b in pool.blocks] == [(3, 2, 4, 6), (2, 2, 4, 6)]
    assert all(isinstance(b, torch.nn.Parameter) for b in pool.blocks)
    assert len(pool) == 5


@given(
    blocks=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    batch=st.integers(1, 5),
    chosen=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_gather_equals_a_loop_over_samples(blocks, batch, chosen, seed):
    pool = make(tuple(blocks))
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(pool), (batch, chosen), generator=generator)
    read = pool.gather(Selection(index, None, torch.zeros(())))
    values = torch.cat(list(pool.blocks))
    for b in range(batch):
        for site in range(pool.sites):
            rows = [values[int(m), site, p] for m in index[b] for p in range(pool.length)]
            assert torch.equal(read[b, site], torch.stack(rows))


def test_gather_of_one_choice_for_all_is_one_read_expanded():
    pool = make()
    index = torch.tensor([[4, 0]])
    once = pool.gather(Selection(index, None, torch.zeros(())))
    shown = pool.gather(Selection(index.expand(5, -1), None, torch.zeros(())))
    assert shown.stride(0) == 0
    assert torch.equal(shown, once.expand(5, -1, -1, -1))
    weights = torch.randn(shown.shape)
    (got,) = torch.autograd.grad((shown * weights).sum(), pool.blocks[1])
    copied = pool.gather(Selection(index.repeat(5, 1), None, torch.zeros(())))
    assert copied.stride(0)
    (expected,) = torch.autograd.grad((copied * weights).sum(), pool.blocks[1])
    torch.testing.assert_close(got, expected)


def test_rows_that_chose_the_same_slots_share_one_copy_where_nothing_trains():
    pool = make(blocks=(3, 2), length=50)
    same, other = select([[4, 0]] * 64), select([[4, 0]] * 63 + [[0, 4]])
    copied = pool.gather(same)
    assert copied.stride(0)  # with gradients nothing is compared
    with torch.no_grad():
        shown, mixed = pool.gather(same), pool.gather(other)
        alone = pool.gather(select([[4, 0]]))
    assert shown.stride(0) == 0 and mixed.stride(0)
    assert torch.equal(shown, copied) and torch.equal(shown[:1], alone)
    assert torch.equal(mixed[-1], torch.cat([alone[0, :, 50:], alone[0, :, :50]], 1))
    held = {name: t.untyped_storage().nbytes() for name, t in (("one", shown), ("all", copied))}
    assert held["all"] == 64 * held["one"]
    with torch.no_grad():
        weighted = pool.gather(select([[4, 0]] * 3, [[0.5, 0.5]] * 2 + [[1.0, 0.0]]))
    assert not torch.equal(weighted[0], weighted[2])


def test_gather_with_weights_equals_a_loop_and_lets_gradients_through():
    pool = make()
    index, weight = [[0, 4, 4], [2, 1, 0]], [[0.5, -1.0, 0.25], [0.0, 2.0, 1.0]]
    read = pool.gather(select(index, weight))
    values = torch.cat(list(pool.blocks))
    for b in range(2):
        expected = sum(w * values[m] for w, m in zip(weight[b], index[b], strict=True))
        assert torch.allclose(read[b], expected, atol=1e-6)
    read.sum().backward()
    # Weights of slot 3 are all absent, so its gradient is exactly zero; slot 4 got -0.75.
    assert pool.blocks[1].grad[0].abs().max() == 0
    assert torch.allclose(pool.blocks[1].grad[1], torch.tensor(-0.75))


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.5),
    ],
)
def test_a_frozen_block_does_not_move_even_in_an_old_optimiser(make_optimizer):
    """Fault 5 of the public codes: momentum and weight decay move parameters of zero gradient."""
    pool = make()
    optimizer = make_optimizer(list(pool.parameters()))
    for _ in range(3):
        optimizer.zero_grad()
        pool.gather(select([[0, 1, 2, 3, 4]])).square().sum().backward()
        optimizer.step()
    pool.freeze(0)
    before = pool.blocks[0].detach().clone()
    new = pool.blocks[1].detach().clone()
    for _ in range(3):
        pool.gather(select([[0, 1, 2, 3, 4]])).square().sum().backward()
        optimizer.step()
    assert torch.equal(pool.blocks[0], before)
    assert not torch.equal(pool.blocks[1], new)


def test_provenance_counts_steps_not_samples_and_keeps_the_parent():
    pool = make((2,))
    pool.grow(1, from_slot(pool, 1), task=1, name="copy", parent=1)
    pool.mark_trained(torch.tensor([[0, 1], [0, 0]]))
    pool.mark_trained(torch.tensor([[0, 2]]))
    assert [slot.trained_steps for slot in pool.slots] == [2, 1, 1]
    assert [slot.name for slot in pool.slots] == ["task0.0", "task0.1", "copy"]
    assert (pool.slots[2].parent, pool.slots[2].task) == (1, 1)


def test_untrained_and_disabled_slots_are_not_available_at_test():
    pool = make((3,))
    pool.mark_trained(torch.tensor([[0, 1]]))
    pool.enable(0, False)
    assert pool.available(training=False).tolist() == [False, True, False]
    assert pool.available(training=True).tolist() == [False, True, True]


def test_layout_and_state_make_the_same_pool_again():
    pool = make()
    pool.freeze(0)
    pool.mark_trained(torch.tensor([[1]]))
    other = PromptPool(2, 4, 6)
    other.restore(pool.layout())
    other.load_state_dict(pool.state_dict())
    assert other.slots == pool.slots
    assert torch.equal(other.values(), pool.values())
    assert [b.requires_grad for b in other.blocks] == [False, True]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: PromptPool(1, 0, 4), "length=0"),
        (lambda: make().grow(0), "pool of 0 slots"),
        (lambda: PromptPool(1, 2, 4).values(), "empty pool"),
        (lambda: make().freeze(7), "block number below 2"),
        (lambda: make().check_slot(5), "slot number below 5"),
        (lambda: make().grow(1, lambda shape: torch.zeros(1)), "initialiser that returns"),
        (lambda: make().grow(2, from_values(torch.zeros(1, 2, 4, 6))), "initial values of shape"),
        (lambda: make().grow(1, from_slot(make(), 9)), "slot number below 5"),
        (lambda: make().grow(1, from_vocabulary(torch.zeros(9, 6))), "at the embedding"),
    ],
)
def test_bad_calls_say_what_is_wrong(call, says):
    with pytest.raises(PoolError, match=says):
        call()


def test_initialisers_start_where_they_say():
    torch.manual_seed(0)
    shape = (50, 1, 10, 8)
    assert uniform(2.0, 3.0)(shape).min() >= 2
    assert normal(0.02)(shape).std() == pytest.approx(0.02, rel=0.05)
    assert constant(0.5)(shape).unique().tolist() == [0.5]
    pool = PromptPool(1, 10, 8)
    pool.grow(4)
    mean = mean_of_slots(pool, [0, 2])((3, 1, 10, 8))
    assert torch.allclose(mean[2], (pool.values()[0] + pool.values()[2]) / 2)
    table = torch.randn(100, 8)
    rows = from_vocabulary(table)((2, 1, 10, 8)).view(20, 8)
    picked = (rows[:, None] == table[None]).all(-1).nonzero()[:, 1]
    assert len(picked.unique()) == 20, "tokens are drawn without replacement"


def test_gather_reads_only_the_blocks_that_were_chosen_and_gradients_stay_exact():
    """The values of a pool of many blocks are not joined at every step."""
    pool = make((2,) * 30)
    pool.values = None  # type: ignore[method-assign]  # joining all blocks would fail
    index = torch.tensor([[3, 58], [58, 2], [9, 9]])
    target = torch.randn(3, 2, 8, 6)
    (pool.gather(Selection(index, None, torch.zeros(()))) * target).sum().backward()
    expected = {slot: torch.zeros(2, 4, 6) for slot in range(60)}
    for b, row in enumerate(index.tolist()):
        for place, slot in enumerate(row):
            expected[slot] = expected[slot] + target[b, :, 4 * place : 4 * place + 4]
    for number, block in enumerate(pool.blocks):
        if number in (1, 4, 29):
            wanted = torch.stack([expected[2 * number], expected[2 * number + 1]])
            assert torch.allclose(block.grad, wanted, atol=1e-6)
        else:
            assert block.grad is None


@pytest.mark.parametrize("chosen", [2, 20])
def test_a_weighted_sum_of_few_or_most_slots_equals_a_loop(chosen):
    pool = make((5,) * 5)
    index = torch.stack([torch.randperm(25)[:chosen] for _ in range(4)])
    weight = torch.randn(4, chosen)
    read = pool.gather(Selection(index, weight, torch.zeros(())))
    values = torch.cat(list(pool.blocks)).detach().double()
    for b in range(4):
        expected = sum(w * values[m] for w, m in zip(weight[b].double(), index[b], strict=True))
        assert torch.allclose(read[b].double(), expected, atol=1e-5)


def test_a_layout_from_before_eviction_can_still_be_restored():
    pool, other = make(), PromptPool(2, 4, 6)
    layout = pool.layout()
    del layout["next"]
    for slot in layout["slots"]:
        del slot["parents"]
    other.restore(layout)
    other.load_state_dict(pool.state_dict())
    assert other.slots == pool.slots
    other.grow(1)
    assert other.slots[-1].id == 5


def test_the_order_of_old_rows_in_a_plan_decides_and_whole_blocks_are_the_same_parameters():
    pool = make()
    values, last = pool.values().detach().clone(), pool.blocks[1]
    pool.recombine([[{2: 1.0}, {0: 1.0}], [{3: 1.0}, {4: 1.0}]])
    assert torch.equal(pool.values(), values[[2, 0, 3, 4]])
    assert pool.blocks[1] is last and not pool.blocks[0].requires_grad
    assert [slot.id for slot in pool.slots] == [2, 0, 3, 4]
    assert torch.equal(pool.read(torch.tensor([[1], [3]])), values[torch.tensor([[0], [4]])])
