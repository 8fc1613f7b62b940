"""Whoever learned what in which order: merged equals sequential, forgotten equals never seen."""

import itertools
from functools import cache, reduce

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpool.exact import branch_off, forget, merge
from cpool.learner import Learner
from cpool.methods import NCM, SLDA, RanPAC, Ridge, SPrompts
from cpool.model import PromptedModel
from cpool.seeding import seeded
from tests import tiny

TASKS = 5
METHODS = {
    "ncm": lambda: NCM(),
    "slda": lambda: SLDA(shrinkage=0.1, forgettable=True),
    "ridge": lambda: Ridge(ridge=0.1, forgettable=True),
    "ranpac": lambda: RanPAC(projection=40, ridge=1.0, seed=3, forgettable=True),
    "sprompts": lambda: SPrompts(length=2, centroids=2),
}
SOME = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
orders = st.permutations(range(TASKS))


@cache
def data(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a task of two classes of its own."""
    y = np.repeat([2 * number, 2 * number + 1], 5)
    x = tiny.raw("vit", len(y), number)
    x[np.arange(len(y)), y % 10, y % 16] = 255
    return x, y


def new(name: str) -> PromptedModel:
    backbone = tiny.backbone("vit")
    with seeded(0, "build"):
        return METHODS[name]().build(backbone)


def learn(model: PromptedModel, numbers: list[int]) -> PromptedModel:
    learner = Learner(model, epochs=1, batch_size=5, device="cpu", quiet=True)
    for number in numbers:
        learner.next_number = number
        learner.fit_task(data(number))
    return model


def same(one: PromptedModel, other: PromptedModel) -> None:
    assert one.tasks == other.tasks and one.classes == other.classes
    images = np.concatenate([data(number)[0] for number in range(TASKS)])
    batch = one.prepare(images)
    with torch.no_grad():
        answers = [model.eval()(batch).logits for model in (one, other)]
    finite = torch.isfinite(answers[1])
    assert torch.equal(torch.isfinite(answers[0]), finite)
    assert torch.allclose(answers[0][finite], answers[1][finite], rtol=1e-5, atol=1e-5)
    for name, tensor in one.head.state_dict().items():
        there = other.head.state_dict()[name]
        if tensor.is_floating_point() and tensor.numel() and tensor.shape == there.shape:
            assert float((tensor - there).abs().max()) <= 1e-6 * float(there.abs().max()), name


@pytest.mark.parametrize("name", METHODS)
@SOME
@given(order=orders, cuts=st.sets(st.integers(1, TASKS - 1)))
def test_any_shares_of_a_stream_merge_into_it(name, order, cuts):
    places = [0, *sorted(cuts), TASKS]
    shares = [order[a:b] for a, b in itertools.pairwise(places)]
    start = new(name)
    clients = [learn(branch_off(start), share) for share in shares]
    same(reduce(merge, clients), learn(new(name), order))


@pytest.mark.parametrize("name", METHODS)
@SOME
@given(order=orders, gone=st.lists(st.integers(0, TASKS - 1), unique=True, min_size=1, max_size=4))
def test_any_tasks_that_are_forgotten_in_any_order_were_never_seen(name, order, gone):
    model = learn(new(name), order)
    left = list(order)
    for number in gone:
        model = forget(model, left.index(number))
        left.remove(number)
    same(model, learn(new(name), left))
    assert [set(record["classes"]) for record in model.removed] == [
        {*data(number)[1].tolist()} for number in gone
    ]
