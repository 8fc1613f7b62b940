"""What is left on the disk and in memory after a task was forgotten, and what is refused."""

import gc
import json
import re
import weakref

import numpy as np
import pytest

from cpool.checkpoint import load_state
from cpool.cli.inspect import show_checkpoint
from cpool.errors import PoolError, StateError
from cpool.exact import branch_off, copy_slots, forget, merge, split
from cpool.exact.forgetting import numbers_of
from cpool.learner import Learner
from cpool.methods import L2P, NCM, PromptRidge, PromptTuning, RanPAC, SPrompts
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream


def learned(method=None, kind="vit", seed=0, tasks=(0, 1, 2)) -> Learner:
    backbone = tiny.backbone(kind)
    with seeded(seed, "build"):
        model = (method or SPrompts(length=2, centroids=2)).build(backbone)
    learner = Learner(model, seed=seed, epochs=1, batch_size=6, device="cpu", quiet=True)
    for number in tasks:
        learner.next_number = number
        learner.fit_task(stream(kind)[number])
    return learner


def bytes_of(folder) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (SPrompts(length=2, centroids=2), "vit"),
        (PromptTuning(length=2, labels=LABELS, forgettable=True), "llama"),
    ],
    ids=["sprompts", "prompt_tuning"],
)
def test_the_bytes_of_a_slot_are_gone_from_folder_and_memory(method, kind, tmp_path, capsys):
    learner = learned(method, kind)
    learner.save(tmp_path)
    (branch,) = learner.model.prompter
    slot = weakref.ref(branch.pool.blocks[1])
    values = branch.pool.blocks[1].detach().numpy().tobytes()
    other = branch.pool.blocks[2].detach().numpy().tobytes()
    before = {path.name for path in tmp_path.iterdir()}
    assert values in bytes_of(tmp_path)
    del branch
    learner.forget(stream(kind)[1].name)
    gc.collect()
    assert slot() is None, "nothing holds the values any more"
    learner.save(tmp_path)
    assert values not in bytes_of(tmp_path) and other in bytes_of(tmp_path)
    assert not [name for name in before if "block0002" in name and (tmp_path / name).exists()]
    (record,) = json.loads((tmp_path / "manifest.json").read_text())["layout"]["removed"]
    assert record["task"] == 1 and record["slots"] == ["task1"] and record["when"][:2] == "20"
    show_checkpoint(tmp_path)
    shown = capsys.readouterr().out
    assert f"forgotten {record['when']}: classes" in shown and "; slots task1" in shown
    again = Learner.load(tmp_path, tiny.backbone(kind), device="cpu", quiet=True)
    assert again.model.removed == learner.model.removed
    assert again.done == learner.done and again.numbers == [0, 2]
    x = stream(kind)[2].test.x
    assert np.array_equal(again.predict_proba(x), learner.predict_proba(x))


def test_only_what_was_forgotten_is_in_the_record(tmp_path):
    """A task that a split leaves out is not forgotten: the other part has it."""
    whole = learned().model
    some, others = split(whole, [0])
    copied = copy_slots(whole, branch_off(whole), [0, 2])
    turned = copy_slots(whole, branch_off(whole), [2, 0])
    for model in (some, others, merge(some, others), copied, turned):
        assert not model.removed
    Learner(merge(some, others), device="cpu", quiet=True).save(tmp_path)
    assert "removed" not in json.loads((tmp_path / "manifest.json").read_text())["layout"]
    gone = forget(whole, 1)
    (record,) = gone.removed
    some, others = split(gone, [0])
    assert some.removed == others.removed == [record]
    for model in (merge(some, others), copy_slots(gone, branch_off(gone), [1, 0])):
        assert model.removed == [record], "both parts know of it, and it was once"
    assert forget(merge(some, others), 0).removed[0] == record
    assert gone.removed == [record] and not whole.removed
    client = forget(learned(tasks=(0,)).model, 0)
    assert merge(gone, client).removed == [record, *client.removed]


def test_tasks_are_copied_in_the_order_given():
    whole = learned().model
    classes = whole.tasks
    for order in ([2, 0], [1], [2, 1, 0], [0, 2], []):
        copied = copy_slots(whole, branch_off(whole), order)
        assert copied.tasks == [classes[task] for task in order]
    assert split(whole, [2, 0])[0].tasks == [classes[0], classes[2]], "as they were learned"


def test_slots_keep_where_they_come_from():
    first, second = learned(tasks=(0,)), learned(tasks=(1, 2))
    merged = merge(first.model, second.model)
    (branch,) = merged.prompter
    assert [(slot.id, slot.task, slot.name) for slot in branch.pool.slots] == [
        (0, 0, "task0"),
        (1, 1, "task1"),
        (2, 2, "task2"),
    ]
    assert all(slot.trained_steps > 0 for slot in branch.pool.slots)
    (branch,) = forget(merged, 0).prompter
    assert [(slot.id, slot.task, slot.name) for slot in branch.pool.slots] == [
        (1, 0, "task0"),
        (2, 1, "task1"),
    ]


def test_a_learner_of_a_part_goes_on_with_its_number_and_tells_tasks_by_it():
    method = SPrompts(length=2, centroids=2)
    part = learned(method, tasks=(1, 2))
    assert part.numbers == [1, 2] and part.next_number == 3
    with pytest.raises(StateError, match=r"task 3, the next one to learn; got task 1 .*learned"):
        part.fit_task(stream("vit")[1])
    told = part.evaluate(stream("vit")[1:], told=True)
    whole = learned(method).evaluate(stream("vit")[1:], told=True)
    assert told == whole
    with pytest.raises(StateError, match="whole stream"):
        part.run(stream("vit"))


def test_bad_input_is_refused_and_nothing_changes():
    learner = learned()
    with pytest.raises(StateError, match="a task from 0 to 2; got task 3"):
        forget(learner.model, 3)
    with pytest.raises(StateError, match="got True of type bool"):
        forget(learner.model, True)
    with pytest.raises(StateError, match="got True of type bool"):
        learner.forget(True)
    with pytest.raises(StateError, match=r"a task that was learned: .*; got 'weather'"):
        learner.forget("weather")
    with pytest.raises(StateError, match="each task once"):
        split(learner.model, [0, 0])
    with pytest.raises(StateError, match="a task from 0 to 2; got task 5"):
        split(learner.model, [0, 5])
    with pytest.raises(StateError, match=r"each task once; got \[2, 0, 2\]"):
        copy_slots(learner.model, learner.model, [2, 0, 2])
    assert len(learner.model.tasks) == 3


@pytest.mark.parametrize("wrong", ["0", 1.0, True, None, [0]])
def test_a_task_is_given_by_a_whole_number(wrong):
    """In use, where no types are checked; in tests they are, before `forget` is called."""
    model = learned(tasks=(0, 1)).model
    expected = f"got {wrong!r} of type {type(wrong).__name__}. Give a task by its number."
    with pytest.raises(StateError, match=re.escape(expected)):
        numbers_of(model, [0, wrong])
    assert numbers_of(model, np.array([1, 0])) == [1, 0], "numpy's numbers are whole, too"


def test_models_that_could_not_have_been_one_are_not_merged():
    model = learned(tasks=(0,)).model
    with pytest.raises(StateError, match="length 2 and 3"):
        merge(model, learned(SPrompts(length=3, centroids=2), tasks=(1,)).model)
    with pytest.raises(StateError, match=r"got method sprompts and ncm[.]"):
        merge(model, learned(NCM(), tasks=(1,)).model)
    with pytest.raises(StateError, match=r"backbone .* and .*"):
        merge(model, learned(kind="deit", tasks=(1,)).model)
    with pytest.raises(StateError, match="backbone"):
        copy_slots(learned(kind="bert", tasks=(1,)).model, model)
    with pytest.raises(PoolError, match="whose slots all tasks train"):
        branch_off(learned(L2P(pool_size=4, top_k=2, length=2), tasks=(0,)).model)


@pytest.mark.parametrize(
    ("method", "options", "reason"),
    [
        (RanPAC, {}, "the same random features and ridge; got seed"),
        (PromptRidge, {"prompt": "none"}, "the same random features and ridge; got seed"),
        (PromptRidge, {"length": 2}, "the same prompts"),
    ],
    ids=["ranpac", "prompt_ridge_without_prompt", "prompt_ridge"],
)
def test_models_of_other_random_features_are_not_merged(method, options, reason):
    options = {"projection": 20, "ridge": 1.0, **options}
    first, second = (learned(method(**options), seed=seed, tasks=(seed,)).model for seed in (0, 1))
    for one, other in ((first, second), (second, first)):
        with pytest.raises((StateError, PoolError), match=reason):
            merge(one, other)
    with pytest.raises((StateError, PoolError), match=reason):
        copy_slots(second, first)
    assert [len(model.tasks) for model in (first, second)] == [1, 1]
    first, second = (
        learned(method(seed=3 + task, **options), tasks=(task,)).model for task in (0, 1)
    )
    with pytest.raises(StateError, match="hyper-parameters and backbone; got seed 3 and 4"):
        merge(first, second)
    if "length" not in options:  # a seed of the method's own is the same in every run
        first, second = (
            learned(method(seed=3, **options), seed=seed, tasks=(seed,)).model for seed in (0, 1)
        )
        assert len(merge(first, second).tasks) == 2


def test_class_means_of_shared_classes_are_not_told_apart():
    x, y = tiny.raw("vit", 12), np.arange(12) % 2
    learner = learned(NCM(), tasks=())
    for _ in range(2):
        learner.fit_task((x, y))
    with pytest.raises(StateError, match=r"which shares \[0, 1\]"):
        forget(learner.model, 1)


def test_domains_merge_too():
    """A domain-incremental stream: the same classes in every task, an expert each."""
    x, y = tiny.raw("vit", 24), np.arange(24) % 3
    parts = [(x[:12], y[:12]), (255 - x[12:], y[12:])]
    whole = learned(tasks=())
    for part in parts:
        whole.fit_task(part)
    apart = [learned(tasks=()) for _ in parts]
    for number, (learner, part) in enumerate(zip(apart, parts, strict=True)):
        learner.next_number = number
        learner.fit_task(part)
    merged = Learner(merge(*(one.model for one in apart)), device="cpu", quiet=True)
    assert np.allclose(merged.predict_proba(x), whole.predict_proba(x), atol=1e-6)
    gone = Learner(forget(merged.model, 0), device="cpu", quiet=True)
    assert np.allclose(gone.predict_proba(x), apart[1].predict_proba(x), atol=1e-6)


def test_a_client_that_gets_a_checkpoint_trains_no_second_prompt(tmp_path):
    """The prompt of a first session is everybody's, also for who loads it from files."""
    method = RanPAC(projection=20, ridge=1.0, first_session=True, length=2)
    first, sequence = learned(method, tasks=(0,)), learned(method)
    Learner(branch_off(first.model), quiet=True).save(tmp_path)
    client = Learner(method.build(tiny.backbone("vit")), first=1, device="cpu", quiet=True)
    load_state(client.model, tmp_path)
    assert not client.model.trains(0)
    for number in (1, 2):
        client.fit_task(stream("vit")[number])
    (branch,) = client.model.prompter
    assert len(branch.pool) == 1
    merged = Learner(merge(first.model, client.model), device="cpu", quiet=True)
    x = stream("vit")[2].test.x
    assert np.allclose(merged.predict_proba(x), sequence.predict_proba(x), atol=1e-5)
