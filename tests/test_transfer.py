"""Where a new slot starts: nearest tasks and similar prompts, against loops."""

import numpy as np
import pytest
import torch

from cpool.cli.inspect import show_checkpoint
from cpool.errors import ConfigError, DataError, PoolError
from cpool.initialisers import normal
from cpool.learner import Learner
from cpool.methods import PromptTuning
from cpool.policies import Everything
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite
from cpool.seeding import seeded
from cpool.transfer import best_source, slot_similarity
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream
from tests.policies.test_gaussian_router import WIDTH, data, fitted, naive_distances


def test_sources_are_ranked_by_the_distance_between_means():
    sets, query = data(4), data(1, seed=9)[0]
    router = fitted(sets, shrinkage=0.3)
    apart = naive_distances(sets, query.mean(dim=0, keepdim=True), 0.3)[0].tolist()
    expected = sorted((distance, slot) for slot, distance in enumerate(apart))
    found = best_source(router, query, k=3)
    assert [source.slot for source in found] == [slot for _, slot in expected[:3]]
    assert [-source.nearness for source in found] == pytest.approx([d for d, _ in expected[:3]])
    router.grow(1, task=4)  # no queries of it yet
    assert len(best_source(router, query, k=9)) == 4
    nearest = expected[0][1]
    available = torch.arange(5) != nearest
    assert best_source(router, query, available=available)[0].slot == expected[1][1]
    assert best_source(router, query, available=torch.zeros(5, dtype=torch.bool)) == []


def test_what_cannot_be_ranked_is_refused():
    router = fitted(data(2))
    with pytest.raises(ConfigError, match="k of at least 1"):
        best_source(router, torch.randn(3, WIDTH), k=0)
    with pytest.raises(DataError, match="training queries"):
        best_source(router, torch.zeros(0, WIDTH))


@pytest.mark.parametrize("sites", [1, 4])
def test_similarity_is_the_cosine_of_token_averages(sites):
    pool = PromptPool(sites, 3, 5, normal(1.0))
    pool.grow(2)
    pool.grow(2)
    found = slot_similarity(pool)
    values = pool.values().detach().double().numpy()
    for m in range(4):
        for n in range(4):
            one, two = (sum(values[s, :, p] for p in range(3)).ravel() / 3 for s in (m, n))
            cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
            assert float(found[m, n]) == pytest.approx(cosine, abs=1e-6)


def test_a_slot_that_trains_becomes_a_copy_and_a_frozen_one_never():
    pool = PromptPool(2, 3, 4, normal(1.0))
    pool.grow(2, task=0)
    pool.freeze_all()
    pool.grow(2, task=1)
    kept = pool.values().detach().clone()
    pool.start_from(3, 1)
    now = pool.values()
    assert torch.equal(now[3], kept[1])
    assert torch.equal(now[:3], kept[:3])
    assert [slot.parent for slot in pool.slots] == [None, None, None, 1]
    assert pool.blocks[1].requires_grad
    with pytest.raises(PoolError, match="a slot that still trains"):
        pool.start_from(0, 1)
    with pytest.raises(PoolError, match="slot number below 4"):
        pool.start_from(3, 7)


def learner(start):
    with seeded(0, "build"):
        model = PromptTuning(length=2, labels=LABELS, start=start).build(tiny.backbone("llama"))
    return Learner(model, epochs=1, batch_size=6, device="cpu", quiet=True)


def begin(run, task):
    """Begin a task as the learner does, and return the pool before any step."""
    queries = run.queries(task.train)
    batch = {**run.model.prepare(list(task.train.x)), "labels": torch.tensor(task.train.y)}
    run.model.begin_task(task.classes, batches=[{**batch, "query": queries}])
    return run.model.prompter.branches["prompt"].pool


@pytest.mark.parametrize("start", ["last", "nearest"])
def test_a_new_task_starts_from_an_earlier_prompt(start):
    run, tasks = learner(start), stream("llama")
    run.fit_task(tasks[0])
    run.fit_task(tasks[1])
    branch = run.model.prompter.branches["prompt"]
    frozen = branch.pool.values().detach().clone()
    queries = [torch.nn.functional.normalize(run.queries(t.train).double(), dim=1) for t in tasks]
    # Texts of which task are nearest is decided here by the distances of all to the task means.
    each = branch.policy.distance(run.queries(tasks[2].train)).square().mean(dim=0)
    source = 1 if start == "last" else int(each.argmin())
    pool = begin(run, tasks[2])
    assert torch.equal(pool.values()[2], frozen[source])
    assert pool.slots[2].parent == source
    assert pool.slots[1].parent == 0
    assert torch.equal(pool.values()[:2], frozen)
    if start == "nearest":
        first, second = branch.sources
        assert (first["task"], [s["id"] for s in first["sources"]]) == (1, [0])
        assert [s["id"] for s in second["sources"]] == [source, 1 - source]
        mean = queries[2].mean(dim=0) - queries[source].mean(dim=0)
        whitened = mean @ branch.policy._whitening()
        assert -second["sources"][0]["nearness"] == pytest.approx(float(whitened.norm()))


def test_parents_and_sources_are_in_the_checkpoint_and_shown(tmp_path, capsys):
    run = learner("nearest")
    run.run(stream("llama"), tmp_path)
    branch = run.model.prompter.branches["prompt"]
    again = Learner.load(tmp_path, tiny.backbone("llama"), device="cpu", quiet=True)
    loaded = again.model.prompter.branches["prompt"]
    assert loaded.sources == branch.sources and len(loaded.sources) == 2
    assert [slot.parent for slot in loaded.pool.slots] == [s.parent for s in branch.pool.slots]
    show_checkpoint(tmp_path)
    shown = capsys.readouterr().out
    assert shown.count("started from the nearest task") == 2
    assert f"slot 0 {branch.sources[0]['sources'][0]['nearness']:.3g}" in shown
    rows = [line.split() for line in shown.splitlines() if " task" in line and "frozen" in line]
    assert [row[5] for row in rows if row[0] in "012"] == [
        "—" if slot.parent is None else str(slot.parent) for slot in branch.pool.slots
    ]


@pytest.mark.parametrize("start", ["last", "nearest"])
def test_one_shared_prompt_has_no_earlier_one_to_start_from(start):
    with pytest.raises(ConfigError, match='start "fresh", or'):
        PromptTuning(start=start, slots="shared")


def test_a_policy_that_knows_no_tasks_has_no_nearest_one():
    pool = PromptPool(1, 2, 4)
    with pytest.raises(PoolError, match="a GaussianRouter"):
        Branch("x", pool, Everything(), EmbeddingSite(), per_task=1, nearest=True)
