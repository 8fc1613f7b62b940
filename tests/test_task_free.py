"""TaskFreeLearner: growth at drift alone, frozen stays frozen, chunks add up, exact resuming."""

import numpy as np
import pytest
import torch

import cpool
from cpool.cache import QueryCache
from cpool.data import PreparedCache
from cpool.drift import DriftDetector
from cpool.errors import CheckpointError, ConfigError, DataError, StateError
from cpool.heads import (
    CosineHead,
    ExpertHead,
    LinearHead,
    MaskedHead,
    PrototypeHead,
    SessionHead,
)
from cpool.learner import Learner
from cpool.methods import (
    EWC,
    L2P,
    NCM,
    CODAPrompt,
    FirstSessionPrompt,
    Joint,
    LwF,
    ProgressivePrompts,
    PromptRidge,
    Ridge,
    SPrompts,
)
from cpool.seeding import seeded
from cpool.task_free import TaskFreeLearner
from tests import tiny

VIT = tiny.backbone("vit")
SMALL = {"window": 4, "reference": 32, "false_alarms": 0.01, "settle": 3}


class Scripted(DriftDetector):
    """Raises an alarm at given chunks, whatever they look like."""

    def __init__(self, *alarms: int) -> None:
        super().__init__()
        self.at, self.calls = set(alarms), 0

    def update(self, query):
        self.calls += 1
        return self.calls - 1 in self.at


def free(method=None, detector=None, **options):
    with seeded(1, "build"):
        model = (method or NCM()).build(VIT)
    options = {"epochs": 1, "batch_size": 4, "lr": 0.05, "device": "cpu", "quiet": True, **options}
    return TaskFreeLearner(Learner(model, **options), detector or Scripted())


def chunks(n=6, each=8, classes=((0, 1), (1, 2), (2, 3))):
    """Chunks of random images, two to each group of classes."""
    for number in range(n):
        names = classes[min(number // 2, len(classes) - 1)]
        yield tiny.raw("vit", each, seed=number), np.resize(names, each)


def test_tasks_begin_at_alarms_alone_and_what_is_frozen_stays_to_the_bit():
    run = free(L2P(slots_per_task=2, top_k=2, length=2), Scripted(2, 5))
    pool, policy = (lambda b: (b.pool, b.policy))(next(iter(run.learner.model.prompter)))
    seen = []
    for number, (x, y) in enumerate(chunks()):
        old = [p.detach().clone() for p in (*pool.blocks, *policy.keys.blocks)]
        grew = run.observe(x, y)
        assert grew == (number in (0, 2, 5))
        assert len(pool) == len(policy) == 2 * len(run.growths)
        trains = [p.requires_grad for p in pool.blocks]
        assert trains == [False] * (len(run.growths) - 1) + [True] == policy_trains(policy)
        frozen = [p for p in (*pool.blocks, *policy.keys.blocks) if not p.requires_grad]
        assert all(any(torch.equal(p, o) for o in old) for p in frozen)
        if not grew:
            assert not torch.equal(pool.blocks[-1], old[len(pool.blocks) - 1]), "training goes on"
        seen.append(run.learner.classes[:])
        assert set(run.learner.predict(x)) <= set(seen[-1])
    assert run.growths == [0, 2, 5]
    assert seen == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert run.learner.model.tasks == [(0, 1), (1, 2, 3), (2, 3)]
    assert len(run.learner.losses) == 6
    run.finish()
    assert not any(p.requires_grad for p in (*pool.parameters(), *policy.parameters()))
    with pytest.raises(StateError, match="finish"):
        run.observe(x, y)


def policy_trains(policy):
    return [not frozen for frozen in policy.keys.frozen()]


@pytest.mark.parametrize("method", [NCM(), Ridge(ridge=0.1)], ids=["ncm", "ridge"])
def test_a_closed_form_head_fitted_chunk_by_chunk_is_that_of_all_chunks_at_once(method):
    run, parts = free(method, Scripted(3)), list(chunks())
    for x, y in parts:
        run.observe(x, y)
    run.finish()
    once = Learner(method.build(VIT), device="cpu", quiet=True)
    once.fit_task((np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])))
    assert run.learner.classes == once.classes == [0, 1, 2, 3]
    x = tiny.raw("vit", 20, seed=9)
    assert np.allclose(run.learner.predict_proba(x), once.predict_proba(x), atol=1e-4)


def test_a_prompt_under_a_closed_form_head_trains_in_the_first_chunk_of_a_task_only():
    run = free(FirstSessionPrompt(length=2), Scripted(3))
    values = []
    for x, y in chunks():
        run.observe(x, y)
        values.append(next(iter(run.learner.model.prompter)).pool.values().detach().clone())
    assert all(torch.equal(values[0], v) for v in values[1:])
    assert len(run.learner.losses) == 1 and run.learner.classes == [0, 1, 2, 3]


def test_rules_see_the_end_of_each_task_once():
    run, ends = free(LwF(tune="head"), Scripted(2, 5)), []
    (rule,) = run.learner.model.rules
    end = rule.end
    rule.end = lambda *args: ends.append((run.chunks, args[-1])) or end(*args)
    for x, y in chunks():
        run.observe(x, y)
    run.finish()
    run.finish()
    assert ends == [(2, 0), (5, 1), (6, 2)]


def test_nothing_of_a_chunk_is_kept_after_it():
    cache, prepared = QueryCache(), PreparedCache()
    run = free(L2P(slots_per_task=1, top_k=1, length=2), Scripted(3), cache=cache)
    run.learner.feed.prepared, asked = prepared, []
    query = VIT.query
    VIT.query = lambda batch: asked.append(len(batch["pixel_values"])) or query(batch)
    try:
        for x, y in chunks():
            run.observe(x, y)
            assert not prepared._kept and not run.learner.feed.passes._tables
    finally:
        del VIT.query
    assert not cache._tables and run.learner.feed.cache is cache
    assert asked == [8] * 6, "each query is computed once"


def drifting(seed, **options):
    made = {"of": "rotated_digits", "samples": 32, "transition": 8, "seed": seed, **options}
    return cpool.load_stream("gradual_drift", **made)


def judged(parts, seed=0):
    with seeded(seed):
        model = NCM().build(cpool.load_backbone("embedded"))
    detector = DriftDetector(window=32, reference=256, settle=256)
    run = TaskFreeLearner(Learner(model, device="cpu", quiet=True, seed=seed), detector)
    for chunk in parts:
        run.observe(chunk.train.x, chunk.train.y)
    run.finish()
    return run


@pytest.mark.parametrize("seed", [0, 1])
def test_there_is_one_growth_for_each_true_change_and_none_without(seed):
    stream = drifting(seed, tasks=3)
    changes = [start for start, _ in stream.arrangement["boundaries"]]
    growths = judged(stream, seed).growths
    assert len(growths) == 1 + len(changes)
    assert all(0 <= at - start <= 8 for at, start in zip(growths[1:], changes, strict=True))
    before = stream[: changes[0]]
    assert judged(before, seed).growths == [0]


@pytest.mark.parametrize(
    "method",
    [L2P(slots_per_task=1, top_k=1, length=2), CODAPrompt(layers=(1,), slots_per_task=1, length=2)],
    ids=["l2p", "coda"],
)
def test_a_resumed_run_is_the_one_that_was_not_stopped(method, tmp_path):
    """Stopped within a task, with a half-full window, after classes have turned up late."""

    def stream():
        rows = list(chunks(16, each=6))
        return [(x // 4 if n >= 10 else x, y) for n, (x, y) in enumerate(rows)]

    whole = free(method, DriftDetector(**SMALL))
    for x, y in stream():
        whole.observe(x, y)
    assert whole.growths[0] == 0 and len(whole.growths) >= 2, "there is an alarm to resume across"
    stop = whole.growths[1] + 2
    half = free(method, DriftDetector(**SMALL))
    for x, y in stream()[:stop]:
        half.observe(x, y)
        half.save(tmp_path)
    assert len(list(tmp_path.glob("detector-*"))) == 1, "older states are removed"
    again = free(method, DriftDetector(**SMALL)).resume(tmp_path)
    assert again.chunks == stop and again.growths == half.growths
    for x, y in stream()[stop:]:
        again.observe(x, y)
    assert again.growths == whole.growths and again.chunks == whole.chunks
    for a, b in ((again.learner.model, whole.learner.model), (again.detector, whole.detector)):
        there, here = a.state_dict(), b.state_dict()
        assert there.keys() == here.keys() and all(torch.equal(there[k], here[k]) for k in here)
    assert again.detector.layout() == whole.detector.layout()
    assert again.learner.model.tasks == whole.learner.model.tasks
    x = tiny.raw("vit", 9, seed=3)
    loaded = Learner.load(half.save(tmp_path / "other").parent, VIT, device="cpu", quiet=True)
    assert np.array_equal(loaded.predict_proba(x), half.learner.predict_proba(x))


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    run = free(NCM(), DriftDetector(**SMALL))
    run.observe(*next(chunks()))
    run.save(tmp_path / "a")
    with pytest.raises(CheckpointError, match="window"):
        free(NCM(), DriftDetector(**{**SMALL, "window": 3})).resume(tmp_path / "a")
    run.learner.save(tmp_path / "b")
    with pytest.raises(CheckpointError, match="task-free"):
        free(NCM(), DriftDetector(**SMALL)).resume(tmp_path / "b")
    (file,) = (tmp_path / "a").glob("detector-*")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    fresh = free(NCM(), DriftDetector(**SMALL))
    with pytest.raises(CheckpointError, match="altered"):
        fresh.resume(tmp_path / "a")
    assert fresh.learner.done == []


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (SPrompts(length=2, centroids=1), "policies need all data"),
        (EWC(tune="head"), "rules need all data"),
        (PromptRidge(length=2, projection=40), "rules need all data"),
        (ProgressivePrompts(length=2), "told the task"),
        (Joint(of="ncm"), "all tasks at once"),
    ],
)
def test_a_method_that_cannot_learn_from_chunks_is_refused(method, reason):
    with pytest.raises(ConfigError, match=f"{method.name!r}.*{reason}"):
        free(method)


def test_bad_chunks_and_learners_are_refused():
    run = free()
    with pytest.raises(DataError, match="at least one sample"):
        run.observe(tiny.raw("vit", 2)[:0], np.zeros(0, np.int64))
    assert run.chunks == 0 and run.growths == []
    run.observe(*next(chunks()))
    with pytest.raises(StateError, match="a new learner"):
        TaskFreeLearner(run.learner, Scripted())


# What it is made of: heads and models that take classes within a task


def test_a_linear_head_extended_keeps_its_rows_and_its_freezing():
    head = LinearHead(3, freeze_old=True)
    head.begin_task([5, 2])
    head.begin_task([7])
    old, now = [p.detach().clone() for p in head.parameters()], list(head.parameters())
    head.extend_task([7, 9, 5, 1])
    assert head.classes == [5, 2, 7, 9, 1] and head.groups == [[5, 2], [7, 9, 1]]
    assert all(torch.equal(a, b) for a, b in zip(now, old, strict=True))
    assert [w.requires_grad for w in head.weights] == [False, True, True]
    x = torch.randn(4, 3)
    rows = torch.cat(list(head.weights))
    naive = torch.stack([torch.stack([row @ f for row in rows]) for f in x])
    assert torch.allclose(head(x), naive, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearHead(3),
        lambda: CosineHead(3),
        lambda: MaskedHead(3, 2),
        lambda: PrototypeHead(3),
        lambda: LinearHead(3, freeze_old=True),
    ],
    ids=["linear", "cosine", "masked", "prototype", "frozen"],
)
def test_an_extended_head_is_saved_and_restored(make):
    head, again = make(), make()
    head.begin_task([3, 1])
    head.extend_task([1, 4])
    head.extend_task([3])
    head.begin_task([3])
    head.extend_task([8, 6])
    head.begin_task([0])
    layout = head.layout()
    assert layout["groups"] == [[3, 1, 4], [8, 6], [0]]
    again.restore(layout)
    again.load_state_dict(head.state_dict())
    x = torch.randn(5, 3)
    assert again.classes == head.classes and torch.equal(again(x), head(x))
    there, here = dict(again.named_parameters()), dict(head.named_parameters())
    assert {n: p.requires_grad for n, p in there.items()} == {
        n: p.requires_grad for n, p in here.items()
    }
    plain = make()
    plain.begin_task([3])
    assert "pieces" not in plain.layout()


def test_a_session_extends_the_lasting_head_and_its_probe():
    model = FirstSessionPrompt(length=2).build(VIT)
    batch = {**tiny.batch("vit", 4, seed=0), "labels": torch.tensor([0, 0, 1, 1])}
    model.begin_task([0, 1], batches=[batch])
    assert isinstance(model.head, SessionHead)
    model.extend_task([1, 2])
    assert model.head.probe.classes == model.head.lasting.classes == model.classes == [0, 1, 2]
    assert model.tasks == [(0, 1, 2)]


def test_what_cannot_be_extended_is_refused():
    head = ExpertHead(3, lambda: LinearHead(3))
    head.begin_task([0])
    with pytest.raises(StateError, match="ExpertHead"):
        head.extend_task([1])
    with pytest.raises(StateError, match="at least one task"):
        LinearHead(3).extend_task([1])
    with pytest.raises(StateError, match="begun at least one task"):
        NCM().build(VIT).extend_task([1])
