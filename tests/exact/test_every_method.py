"""Every row of the common grid merges and forgets exactly, or is refused with the reason."""

import copy
import re
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from cpool.errors import PoolError, StateError
from cpool.exact import branch_off, copy_slots, forget, merge, split
from cpool.learner import Learner
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import LANGUAGE, ROWS
from tests.common.tasks import stream

SPEAKER = "llama"
STATISTICS = ("rows", "row_columns", "gram")

# What each row that cannot merge says; all others merge.
SHARED = "whose slots all tasks train"
ALL_TRAIN = "whose backbone all tasks train"
CARRIES = "which carries something from task to task"
HEAD = "whose values tasks share"
EARLIER = "by which tasks share slots or build on earlier ones"
FROM_EARLIER = "whose slots start from those of earlier tasks"
KEPT_APART = "whose slots are kept apart from those of earlier tasks"
COMPETE = "one in which all classes seen compete in training"
NOT_MERGED = {
    "l2p": SHARED,
    "l2p_growing": EARLIER,
    "l2p_queries": EARLIER,
    "l2p_diverse": SHARED,
    "dualprompt": SHARED,
    "linear_head": HEAD,
    "fine_tune": ALL_TRAIN,
    "joint": "one that learns all tasks at once",
    "ewc": ALL_TRAIN,
    "ewc_online": COMPETE,
    "lwf": ALL_TRAIN,
    "lwf_head": COMPETE,
    "replay": ALL_TRAIN,
    "replay_class": COMPETE,
    "der_plus_plus": ALL_TRAIN,
    "der": COMPETE,
    "slca": ALL_TRAIN,
    "coda_prompt": KEPT_APART,
    "coda_prompt_gram_schmidt": EARLIER,
    "progressive_prompts": EARLIER,
    "progressive_prompts_untold": EARLIER,
    "oneprompt": SHARED,
    "ovor": SHARED,
    "mocl": EARLIER,
    "mocl_embedding": EARLIER,
    "sapt": EARLIER,
    "hide_prompt": FROM_EARLIER,
    "hide_prompt_diagonal": FROM_EARLIER,
    "convprompt": EARLIER,
    "osprompt": KEPT_APART,
    "osprompt_reference": KEPT_APART,
    "osprompt_plain": KEPT_APART,
    "mvp": COMPETE,
    "mvp_balanced": COMPETE,
    "prompt_tuning_shared": SHARED,
    "prompt_tuning_calibrated": SHARED,
    "prompt_tuning_last": FROM_EARLIER,
    "prompt_tuning_nearest": FROM_EARLIER,
    "prefix_tuning_random": SHARED,
    "prefix_tuning_calibrated": SHARED,
    "multitask_prompt": "LowRankPool, of which tasks share a part",
    "multitask_prompt_ranks": "LowRankPool, of which tasks share a part",
    "multitask_prompt_taught": CARRIES,
    "attempt": EARLIER,
    "progressive_prompt_tuning": EARLIER,
    "progressive_prompt_tuning_untold": EARLIER,
    "pez_shared": SHARED,
    "prompt_search": CARRIES,
    "prompt_search_calibrated": CARRIES,
    "lora": ALL_TRAIN,
    "fine_tune_words": ALL_TRAIN,
    "ease": HEAD,
    "ease_all": HEAD,
    "prompt_ridge_tasks": "other prompts in the branch",
}
# What can merge, and cannot forget, also where `forgettable` is asked for.
NOT_FORGOTTEN = {
    "ranpac": "chosen on training data of single tasks",  # its ridge is "auto"
}
MERGED = [row for row in ROWS if row not in NOT_MERGED]


def kind_of(row: str) -> str:
    return SPEAKER if row in LANGUAGE else "vit"


def made(row: str, *, forgettable: bool = False) -> Learner:
    """Return a new learner; all of a row start from the same model."""
    kind = kind_of(row)
    method = ROWS[row]()
    if forgettable and "forgettable" in {field.name for field in fields(method)}:
        method = replace(method, forgettable=True)
    backbone = tiny.backbone(kind)
    with seeded(0, "build"):
        model = method.build(backbone)
    return learner_of(model)


def learner_of(model, first: int = 0) -> Learner:
    options = {"epochs": 1, "batch_size": 6, "device": "cpu", "quiet": True}
    return Learner(model, first=first, lr=0.01, optimizer="adamw", weight_decay=0.5, **options)


@cache
def learned(row: str, forgettable: bool, *numbers: int) -> Learner:
    """Return a learner of some tasks, which no test may change."""
    return learn(made(row, forgettable=forgettable), row, *numbers)


def learn(learner: Learner, row: str, *numbers: int) -> Learner:
    for number in numbers:
        learner.next_number = number
        learner.fit_task(stream(kind_of(row))[number])
    return learner


def alike(one, other, row: str) -> None:
    """All that is stored is the same up to rounding, and so is every answer."""
    # Columns beside a task's own change how its logits are rounded, and Adam divides by gradients.
    tolerance = 1e-5 if row == "linear_head_frozen" else 1e-6
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if name.split(".")[-1] in STATISTICS and mine[name].shape != tensor.shape:
            continue  # a ridge that had enough rows for a Gram matrix keeps that form
        if tensor.numel() and tensor.is_floating_point():
            size = float(tensor.abs().max())
            assert float((mine[name] - tensor).abs().max()) <= tolerance * size, name
        else:
            assert torch.equal(mine[name], tensor), name
    assert one.tasks == other.tasks and one.classes == other.classes
    layouts = [without_times(m.layout()) for m in (one, other)]
    assert layouts[0] == layouts[1]
    some = stream(kind_of(row))[0].test
    answers = [learner_of(m).predict_proba(some.x) for m in (one, other)]
    assert np.allclose(*answers, atol=1e-5)


def without_times(layout):
    """Leave out when a slot was made, and the ids that stay with slots for ever."""
    if isinstance(layout, dict):
        private = {"created", "id", "next", "removed", "decisions", "rows", "gram", "trains"}
        return {k: without_times(v) for k, v in layout.items() if k not in private}
    return [without_times(v) for v in layout] if isinstance(layout, list | tuple) else layout


@pytest.mark.parametrize("row", MERGED)
def test_merging_equals_learning_in_sequence(row):
    sequence, first = learned(row, False, 0, 1, 2), learned(row, False, 0)
    before = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    second = learn(learner_of(branch_off(first.model), first=1), row, 1, 2)
    merged = merge(first.model, second.model)
    alike(merged, sequence.model, row)
    tasks = stream(kind_of(row))[:]
    assert learner_of(merged).evaluate(tasks) == sequence.evaluate(tasks)
    after = first.model.state_dict()
    assert len(first.model.tasks) == 1 and before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    copied = copy_slots(second.model, first.model)
    alike(copied, merged, row)


@pytest.mark.parametrize("row", MERGED)
def test_a_merged_model_goes_on_as_one_that_learned_in_sequence(row, tmp_path):
    sequence = learn(made(row), row, 0, 1)
    first = learned(row, False, 0)
    second = learn(learner_of(branch_off(first.model), first=1), row, 1)
    merged = learner_of(merge(first.model, second.model))
    merged.save(tmp_path)
    loaded = Learner.load(tmp_path, tiny.backbone(kind_of(row)), device="cpu", quiet=True)
    for learner in (sequence, merged, loaded):
        learn(learner, row, 2)
    alike(merged.model, sequence.model, row)
    alike(loaded.model, sequence.model, row)


@pytest.mark.parametrize("row", [row for row in MERGED if row not in NOT_FORGOTTEN])
def test_forgetting_equals_never_having_seen_the_task(row):
    everything, without = learned(row, True, 0, 1, 2), learned(row, True, 0, 2)
    gone = forget(everything.model, 1)
    alike(gone, without.model, row)
    tasks = [stream(kind_of(row))[number] for number in (0, 2)]
    assert learner_of(gone).evaluate(tasks, told=False) == without.evaluate(tasks, told=False)
    assert len(everything.model.tasks) == 3 and not everything.model.removed
    (record,) = gone.removed
    assert record["task"] == 1 and record["classes"] == sorted(stream(kind_of(row))[1].classes)
    learner = learner_of(copy.deepcopy(everything.model))
    learner.forget(1)
    alike(learner.model, without.model, row)
    assert learner.done == ["task 0", "task 2"] and learner.numbers == [0, 2]
    assert learner.next_number == 3


@pytest.mark.parametrize("row", [row for row in MERGED if row not in NOT_FORGOTTEN])
def test_a_split_model_is_put_together_again(row):
    whole = learned(row, True, 0, 1, 2)
    if any(branch.lasting for branch in whole.model.prompter or ()):
        with pytest.raises(StateError, match="trained"):
            split(whole.model, [1])  # the others lose the task that trained the prompt
        client = learn(learner_of(branch_off(whole.model)), row, 0, 2)
        alike(copy_slots(whole.model, branch_off(whole.model), [0, 2]), client.model, row)
        return
    some, others = split(whole.model, [1])
    assert len(some.tasks) == 1 and len(others.tasks) == 2
    order = learn(made(row, forgettable=True), row, 0, 2, 1)
    alike(merge(others, some), order.model, row)
    alike(copy_slots(whole.model, others, [1]), order.model, row)
    turned = learn(made(row, forgettable=True), row, 2, 0)
    alike(copy_slots(whole.model, branch_off(whole.model), [2, 0]), turned.model, row)


@pytest.mark.parametrize("row", NOT_MERGED)
def test_what_cannot_merge_says_which_part_forbids_it(row):
    first = made(row)
    if row == "joint":
        first.run(stream("vit"))
    else:
        first = learned(row, False, 0)
    before = copy.deepcopy(first.model.state_dict())
    with pytest.raises((StateError, PoolError), match=re.escape(NOT_MERGED[row])):
        second = learn(learner_of(branch_off(first.model), first=1), row, 1)
        merge(first.model, second.model)
    after = first.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("row", [row for row in NOT_MERGED if row != "joint"])
def test_what_cannot_merge_cannot_forget_either(row):
    reason = re.escape(NOT_MERGED[row])
    if row == "prompt_ridge_tasks":
        reason = "on which slot 0 was trained"
    reason += "|of which tasks share a part"  # pools are asked before policies and rules
    with pytest.raises((StateError, PoolError), match=reason):
        forget(learned(row, False, 0).model, 0)


@pytest.mark.parametrize("row", NOT_FORGOTTEN)
def test_what_cannot_forget_says_why(row):
    learner = learn(made(row, forgettable=True), row, 0, 1)
    with pytest.raises((StateError, PoolError), match=NOT_FORGOTTEN[row]):
        forget(learner.model, 1)


def test_the_page_has_a_row_for_every_method():
    from cpool.methods import METHODS

    page = (Path(__file__).parents[2] / "docs/pages/merge.md").read_text("utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", page, re.MULTILINE))
    named = {ROWS[row]().name for row in MERGED}
    assert {name for name, word in table.items() if word.startswith("yes")} == named
    assert table.keys() == METHODS.keys()
