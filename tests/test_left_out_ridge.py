"""λ chosen by rows left out: against fits without each row, and the same in any order."""

import itertools

import pytest
import torch

from cpool.errors import StateError
from cpool.ridge import RidgeHead
from cpool.ridge.left_out import SHARES, START, best_dual, best_primal
from cpool.ridge.sample import RowSample, sampled
from cpool.ridge.solve import solve_primal


def rows_of(n: int, classes: int, width: int = 6, noise: float = 1.0, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, width, generator=draw)
    labels = torch.arange(n) % classes
    return means[labels] + noise * torch.randn(n, width, generator=draw), labels


def right_by_fitting(z, y, places, ridge):
    """Fit without each row, by the normal equations."""
    right = []
    for i in places.tolist():
        rest = torch.arange(len(z)) != i
        gram = z[rest].T @ z[rest] + ridge * torch.eye(z.shape[1]).double()
        weight = torch.linalg.solve(gram, z[rest].T @ y[rest])
        right.append(bool((z[i] @ weight).argmax() == y[i].argmax()))
    return right


@pytest.mark.parametrize("n, width, noise", [(40, 60, 5.0), (60, 7, 2.0), (60, 60, 5.0)])
@pytest.mark.parametrize("seed", range(4))
def test_both_forms_choose_what_fits_without_each_row_choose(n, width, noise, seed):
    x, labels = rows_of(n, 4, width, noise, seed)
    z, y = x.double(), torch.eye(4).double()[labels]
    places = torch.arange(0, n, 2)
    scale = 30 * float((z.T @ z).diagonal().mean())
    counts = [sum(right_by_fitting(z, y, places, share * scale)) for share in SHARES]
    assert len(set(counts)) > 1
    near = sorted(SHARES, key=lambda share: max(share / START, START / share))
    most = max(near, key=lambda share: counts[SHARES.index(share)])
    for few, wanted in ((True, most), (False, climbed(counts))):
        share, alpha = best_dual(z @ z.T, y, places, scale, few=few)
        other, weight = best_primal(z.T @ z, z.T @ y, z[places], y[places], scale, few=few)
        assert share == other == wanted
        expected = solve_primal(z.T @ z, z.T @ y, share * scale)
        assert torch.allclose(z.T @ alpha, expected, atol=1e-9)
        assert torch.allclose(weight, expected, atol=1e-9)


def climbed(counts):
    """Up from the start while that is better, else down while that is."""
    place = SHARES.index(START)
    step = 1 if counts[place + 1] > counts[place] else -1
    while 0 <= place + step < len(SHARES) and counts[place + step] > counts[place]:
        place += step
    return SHARES[place]


def test_a_class_that_has_no_rows_is_no_answer():
    x, labels = rows_of(30, 2, 5, noise=3.0)
    z, y = x.double(), torch.eye(3).double()[labels]
    places = torch.arange(30)
    two, alpha = best_dual(z @ z.T, y[:, :2], places, 30.0, few=True)
    three, more = best_dual(z @ z.T, y, places, 30.0, few=True)
    assert two == three and more[:, :2].equal(alpha)
    two, _ = best_primal(z.T @ z, z.T @ y[:, :2], z, y[:, :2], 30.0, few=True)
    assert best_primal(z.T @ z, z.T @ y, z, y, 30.0, few=True)[0] == two


def test_a_sample_is_the_same_in_whichever_order_and_parts_rows_come():
    x, labels = rows_of(200, 5)
    places = sampled(x, labels, 30)
    assert len(places) == 30 == len(set(places.tolist()))
    assert set(labels[places].tolist()) == set(range(5)), "no class is preferred"
    expected = {tuple(row) for row in x[places].tolist()}
    for seed in range(3):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
        sample = RowSample(6, 30)
        for part in order.split(37):
            sample.add(x[part], labels[part])
        assert {tuple(row) for row in sample.rows.tolist()} == expected
    halves = [RowSample(6, 30), RowSample(6, 30)]
    for half, part in zip(halves, (slice(0, 90), slice(90, 200)), strict=True):
        half.add(x[part], labels[part])
    halves[0].join(halves[1])
    assert {tuple(row) for row in halves[0].rows.tolist()} == expected


def test_every_row_has_the_same_chance():
    x, labels = rows_of(5000, 10)
    places = sampled(x, labels, 1000)
    assert 400 < int((places < 2500).sum()) < 600
    counts = torch.bincount(labels[places], minlength=10)
    assert 60 < int(counts.min()) <= int(counts.max()) < 140


def head_of(projection: int, **options) -> RidgeHead:
    return RidgeHead(
        6, projection=projection, ridge="left_out", seed=3, kind="cosine", gamma=0.4, **options
    )


TASKS = [([0, 1, 2], 1), ([3, 4], 2), ([1, 5, 6], 3)]


def learn(head: RidgeHead, tasks=TASKS, n: int = 30) -> RidgeHead:
    for classes, seed in tasks:
        x, places = rows_of(n, len(classes), noise=1.5, seed=seed)
        head.begin_task([c for c in classes if c not in head.classes])
        head.fit(x, torch.tensor(classes)[places])
    return head


def all_rows(tasks=TASKS, n: int = 30):
    parts = [(rows_of(n, len(c), noise=1.5, seed=s), c) for c, s in tasks]
    x = torch.cat([x for (x, _), _ in parts])
    labels = torch.cat([torch.tensor(c)[places] for (_, places), c in parts])
    return x, labels


@pytest.mark.parametrize("projection", [200, 40])
def test_a_head_has_the_best_share_of_all_rows_and_the_weights_of_it(projection, monkeypatch):
    head = learn(head_of(projection))
    assert (len(head.gram) > 0) == (projection == 40)
    x, labels = all_rows()
    z = head.expand(x).double()
    y = torch.eye(7).double()[[head.classes.index(c) for c in labels.tolist()]]
    scale = float((z.T @ z).diagonal().mean())
    counts = {s: sum(right_by_fitting(z, y, torch.arange(90), s * scale)) for s in SHARES}
    share = float(head.chosen)
    assert counts[share] == max(counts.values()) > min(counts.values())
    monkeypatch.setattr("cpool.ridge.head.FEW", 89)
    head.solve()
    assert float(head.chosen) == climbed([*counts.values()])
    expected = solve_primal(z.T @ z, z.T @ y, share * scale)
    assert torch.allclose(head.weight.double(), expected, atol=1e-5)


def test_a_few_rows_that_all_shares_get_right_leave_it_where_it_starts():
    head = head_of(30)
    head.begin_task([0, 1])
    head.fit(
        torch.tensor([[9.0] * 6, [9.1] * 6, [-9.0] * 6, [-9.1] * 6]), torch.tensor([0, 0, 1, 1])
    )
    assert float(head.chosen) == START


@pytest.mark.parametrize("projection", [200, 70, 40, 15])
@pytest.mark.parametrize("few", [2000, 75, 10])
def test_merged_heads_have_the_share_of_one_that_saw_all_in_any_order(projection, few, monkeypatch):
    monkeypatch.setattr("cpool.ridge.head.FEW", few)
    whole = learn(head_of(projection))
    for order in itertools.permutations(TASKS):
        first = learn(head_of(projection), order[:1])
        first.join(learn(head_of(projection), order[1:]))
        assert float(first.chosen) == float(whole.chosen)
        x, _ = all_rows()
        columns = [first.classes.index(c) for c in whole.classes]
        assert torch.allclose(first(x)[:, columns], whole(x), atol=1e-4)


@pytest.mark.parametrize("projection", [200, 70, 40, 4])
@pytest.mark.parametrize("few", [2000, 75, 10])
@pytest.mark.parametrize("task", [0, 1, 2])
def test_a_forgotten_task_leaves_the_share_of_never_having_seen_it(
    projection, few, task, monkeypatch
):
    monkeypatch.setattr("cpool.ridge.head.SAMPLE", 20)
    monkeypatch.setattr("cpool.ridge.head.FEW", few)
    head = learn(head_of(projection, forgettable=True))
    rest = [t for i, t in enumerate(TASKS) if i != task]
    never = learn(head_of(projection, forgettable=True), rest)
    head.forget(task, [c for c, _ in TASKS])
    assert head.classes == never.classes
    assert float(head.chosen) == float(never.chosen)
    x, _ = all_rows(rest)
    assert torch.allclose(head(x), never(x), atol=1e-4)
    if len(head.gram):
        assert head.sample.seen == 60
    if len(never.gram):
        assert sorted(head.sample.rows.tolist()) == sorted(never.sample.rows.tolist())


@pytest.mark.parametrize("projection", [200, 40])
@pytest.mark.parametrize("forgettable", [True, False])
def test_it_goes_on_after_loading_as_if_nothing_had_been(projection, forgettable):
    head = learn(head_of(projection, forgettable=forgettable), TASKS[:2])
    other = head_of(projection, forgettable=forgettable)
    other.restore(head.layout())
    other.load_state_dict(head.state_dict())
    for one in (head, other):
        learn(one, TASKS[2:])
    assert float(head.chosen) == float(other.chosen)
    assert torch.equal(head.weight, other.weight)


def test_the_sample_is_kept_only_once_the_rows_are_not_and_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("cpool.ridge.head.SAMPLE", 20)
    head = learn(head_of(200))
    assert len(head.rows) == 90 and len(head.sample) == 0
    head = learn(head_of(40))
    assert len(head.rows) == 0 and len(head.sample) == 20
    fixed = learn(RidgeHead(6, projection=40, ridge=0.1, seed=3))
    assert fixed.sample is None and not any("sample" in name for name in fixed.state_dict())
    head.clear()
    assert len(head.sample) == 0 and head.classes == []


def test_what_is_chosen_on_single_tasks_still_cannot_be_forgotten():
    head = RidgeHead(6, projection=40, ridge="auto", seed=3, forgettable=True)
    with pytest.raises(StateError, match="left_out"):
        learn(head).forget(0, [c for c, _ in TASKS])
