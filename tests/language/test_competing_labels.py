"""In a step of training only the labels that compete are run; what comes of it is the same."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from cpool import readout
from cpool.language import LabelTrie, score_labels
from cpool.learner import Learner
from cpool.methods import L2P, FineTuneWords, LoRA, PrefixTuning, PromptTuning
from cpool.model import PromptedModel
from cpool.rule import Rule
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import LABELS

TEXTS = ["the cat sleeps", "a bird flies in the house", "help"]
# A label of the second task, "red dog", begins one of the first: both are closed, in each.
TASKS = [[0, 1, 2], [3, 4, 5]]
METHODS = {
    "prompt": PromptTuning(length=3, labels=LABELS),
    "prompt mean": PromptTuning(length=3, labels=LABELS, normalise="mean"),
    "prefix": PrefixTuning(length=3, labels=LABELS),
    "lora": LoRA(labels=LABELS),
    "model": FineTuneWords(labels=LABELS),
}
CELLS = [(kind, name) for kind in tiny.DECODERS for name in METHODS]
CELLS += [(kind, name) for kind in tiny.SEQ2SEQ for name in ("prompt", "prompt mean", "model")]


class ReadsSome(Rule):
    """A rule that reads the logits that there are."""

    def loss(self, model: Any, batch: Any, output: Any, task: int | None) -> dict[str, Tensor]:
        """Pull all logits to 0."""
        return {"all": output.logits.square().mean()}


class ReadsAll(ReadsSome):
    """A rule that wants the logits of all classes."""

    needs_logits: ClassVar[bool] = True


@pytest.fixture
def run(monkeypatch) -> list[tuple[str, ...]]:
    """The labels of each pass, in order."""
    seen: list[tuple[str, ...]] = []

    def told(backbone: Any, batch: Any, prompts: Any, trie: LabelTrie) -> Tensor:
        seen.append(trie.names)
        return score_labels(backbone, batch, prompts, trie)

    monkeypatch.setattr(readout, "score_labels", told)
    return seen


def second_task(kind: str, name: str) -> tuple[PromptedModel, dict[str, Tensor]]:
    """Return a model in its second task, and a batch of it."""
    with seeded(0, "build"):
        model = METHODS[name].build(tiny.backbone(kind))
    for task in TASKS:
        model.begin_task(task, batches=())
    batch = {**model.prepare(TEXTS), "labels": torch.tensor([5, 3, 4])}
    return model, batch


def gradients(model: PromptedModel, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradient of what trains, where there is one."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: g for n, g in zip(named, found, strict=True) if g is not None}


@pytest.mark.parametrize(("kind", "name"), CELLS)
def test_loss_and_gradients_are_those_of_all_labels(kind, name, run) -> None:
    model, batch = second_task(kind, name)
    if model.trunk is not None:
        model.trunk.eval()  # without dropout, to compare
    step = model(batch, task=1)
    whole = model.answer(batch, 1)
    assert run == [LABELS[3:], LABELS]
    assert not torch.isinf(whole.logits).any()
    assert bool(torch.isneginf(step.logits[:, :3]).all())
    torch.testing.assert_close(step.logits[:, 3:], whole.logits[:, 3:], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(step.loss, whole.loss, atol=1e-5, rtol=1e-5)
    got, wanted = gradients(model, step.loss), gradients(model, whole.loss)
    assert got and set(got) == set(wanted)
    for parameter, gradient in got.items():
        torch.testing.assert_close(gradient, wanted[parameter], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["prompt", "model"])
def test_at_test_with_a_known_task_its_labels_alone_are_run(name, run) -> None:
    model, batch = second_task("llama", name)
    for branch in model.prompter or ():
        branch.pool.mark_trained(torch.tensor([[0], [1]]))
    model.eval()
    batch["labels"] = torch.tensor([2, 0, 1])
    with torch.no_grad():
        told = model(batch, task=0)
    assert run == [LABELS[:3]]
    assert bool(torch.isfinite(told.logits[:, :3]).all()) and told.loss.isfinite()
    assert bool(torch.isneginf(told.logits[:, 3:]).all())


@pytest.mark.parametrize("how", ["mask seen", "no task", "no labels", "a rule that reads all"])
def test_all_labels_are_run_where_all_are_asked_for(how, run) -> None:
    model, batch = second_task("llama", "model")
    task: int | None = 1
    if how == "mask seen":
        model.mask = "seen"
    elif how == "no task":
        task = None
    elif how == "no labels":  # a loss of one's own may be over any classes
        del batch["labels"]
    else:
        model.rules.append(ReadsAll())
    output = model(batch, task=task)
    assert run == [LABELS]
    assert bool(torch.isfinite(output.logits).all())
    assert output.loss is None or bool(torch.isfinite(output.loss))


@pytest.mark.parametrize("name", ["prompt", "prompt mean", "prefix"])
def test_a_slot_runs_the_labels_that_it_answers_for(name, run, monkeypatch) -> None:
    """Whichever slots a batch is routed to: logits are those of all labels, masked."""
    with seeded(0, "build"):
        model = METHODS[name].build(tiny.backbone("llama"))
    learner = Learner(model, seed=0, device="cpu", quiet=True, epochs=1, batch_size=6)
    said = [["the cat sleeps", "the cat", "cat", "the cat sleeps now"], ["help", "please help"] * 2]
    for classes, texts in zip(TASKS, said, strict=True):
        learner.fit_task((texts, [*classes, classes[0]]), str(classes[0]))
    model.eval()
    batches = [model.prepare(texts) for texts in (*said, ["the cat sleeps", "please help"])]
    run.clear()
    with torch.no_grad():
        found = [model(batch) for batch in batches]
        assert run == [LABELS[:3], LABELS[3:], LABELS]
        kept = [model.one_pass(batch, "features", None) for batch in batches]
        monkeypatch.setattr(type(model.head), "answered", lambda head, expert: None)
        whole = [model(batch) for batch in batches]
    assert run[6:] == [LABELS] * 3
    for output, features, expected, batch in zip(found, kept, whole, batches, strict=True):
        slots = output.selections["prompt"].index[:, 0]
        assert torch.equal(slots, expected.selections["prompt"].index[:, 0])
        torch.testing.assert_close(output.logits, expected.logits, atol=2e-5, rtol=1e-5)
        again = model({**batch, "features": features}).logits
        assert bool(torch.isfinite(features.half()).all())  # a cache holds nothing else
        torch.testing.assert_close(again, expected.logits, atol=2e-5, rtol=1e-5)


def test_an_extended_task_runs_what_was_added(run) -> None:
    with seeded(0, "build"):
        model = FineTuneWords(labels=LABELS).build(tiny.backbone("llama"))
    model.begin_task([0, 4])
    model.begin_task([3])
    model.extend_task([1])
    batch = {**model.prepare(TEXTS), "labels": torch.tensor([1, 3, 1])}
    output = model(batch, task=1)
    assert model.classes == [0, 4, 3, 1]
    assert run == [(LABELS[3], LABELS[1])]
    assert torch.isneginf(output.logits[0]).tolist() == [True, True, False, False]


def test_heads_that_score_no_words_give_all_logits_in_training(run) -> None:
    """Other logits cost nothing, and a rule or loop of one's own may read them."""
    with seeded(0, "build"):
        model = L2P(slots_per_task=2, top_k=2).build(tiny.backbone("vit"))
    for task in ([0, 1], [2, 3]):
        model.begin_task(task)
    model.rules.append(ReadsSome())
    batch = {**tiny.batch("vit", 4), "labels": torch.tensor([2, 3, 2, 3])}
    output = model(batch, task=1)
    assert run == [] and output.logits.shape == (4, 4)
    assert bool(torch.isfinite(output.logits).all()) and bool(output.loss.isfinite())


def test_kept_features_are_not_those_of_other_labels(run) -> None:
    with seeded(0, "build"):
        model = METHODS["prompt"].build(tiny.backbone("llama"))
    learner = Learner(model, seed=0, device="cpu", quiet=True, epochs=1, batch_size=6)
    said = [["the cat sleeps", "the cat", "cat"], ["help", "please help", "please"]]
    for classes, texts in zip(([0, 1], [2, 3]), said, strict=True):
        learner.fit_task((texts, [*classes, classes[0]]), str(classes[0]))
    learner.predict(said[1])
    model.extend_task([0])  # a class of the first task, now of the second as well
    kept = learner.predict_proba(said[1])
    learner.feed.cache.clear()
    assert torch.allclose(torch.tensor(kept), torch.tensor(learner.predict_proba(said[1])))
