"""A prompt that all rows of a batch have is run once, and nothing else changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cpool import Learner
from cpool.backbones import Backbone
from cpool.language import label_trie, score_completions, score_labels
from cpool.language.sharing import prompt_once
from cpool.methods import PrefixTuning, PromptTuning
from cpool.prompter import Prompts
from tests import tiny

LABELS = ("red cat", "red dog runs", "blue", "red dog", "blue bird flies in", "house")
TEXTS = ["the cat sleeps on the big house", "a bird", "please help my card now"]
SAID = ["red fish", "now", "send the stolen card now please"]
LENGTH = 20


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of what was run apart."""
    lengths: list[int] = []
    whole = Backbone.cache_of

    def counted(self: Backbone, tokens: Tensor) -> Any:
        lengths.append(len(tokens))
        return whole(self, tokens)

    monkeypatch.setattr(Backbone, "cache_of", counted)
    return lengths


def of(tokens: Tensor) -> Prompts:
    return Prompts(tokens, {}, torch.zeros(()), {})


def labels(backbone: Backbone, prompts: Prompts, side: str) -> Tensor:
    batch = tiny.padded(backbone.prepare(TEXTS), 3, side)
    return score_labels(backbone, batch, prompts, label_trie(LABELS, backbone.processor))


def completions(backbone: Backbone, prompts: Prompts, side: str) -> Tensor:
    batch = backbone.prepare(TEXTS, completions=SAID)
    texts = {key: value for key, value in batch.items() if key != "completion"}
    batch = {**tiny.padded(texts, 2, side), "completion": batch["completion"]}
    return score_completions(backbone, batch, prompts)[:, 0]


@pytest.mark.parametrize("score", [labels, completions])
@pytest.mark.parametrize("kind", tiny.DECODERS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("axis", ["one", "expanded"])
def test_scores_and_gradients_are_those_of_a_prompt_in_each_row(
    score: Callable[..., Tensor], kind: str, side: str, axis: str, passes: list[int]
) -> None:
    backbone = tiny.backbone(kind)
    prompt = torch.randn(1, LENGTH, backbone.hidden_size).requires_grad_()
    own = prompt.detach().clone().requires_grad_()
    shared = prompt if axis == "one" else prompt.expand(len(TEXTS), -1, -1)
    together = score(backbone, of(shared), side)
    assert passes == [LENGTH]
    apart = score(backbone, of(own.repeat(len(TEXTS), 1, 1)), side)
    assert passes == [LENGTH]  # rows that only look alike may be slots that are each to learn
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=1e-5)
    weights = torch.linspace(-1, 1, together.numel()).view(together.shape)
    (together * weights).sum().backward()
    (apart * weights).sum().backward()
    torch.testing.assert_close(prompt.grad, own.grad, atol=1e-4, rtol=1e-4)


def test_slots_that_are_equal_by_chance_get_each_their_own_gradient(passes: list[int]) -> None:
    backbone = tiny.backbone("llama")
    slots = torch.randn(1, LENGTH, backbone.hidden_size).repeat(2, 1, 1).requires_grad_()
    scores = labels(backbone, of(slots[torch.tensor([0, 1, 1])]), "right")
    (gradient,) = torch.autograd.grad(scores[0].sum(), slots)
    assert not passes
    assert bool(gradient[0].any())
    assert not gradient[1].any()
    # Without gradients they are the same to anybody.
    with torch.no_grad():
        same = labels(backbone, of(slots[torch.tensor([0, 1, 1])]), "right")
    assert passes == [LENGTH]
    torch.testing.assert_close(same, scores.detach(), atol=2e-5, rtol=1e-5)


def test_a_prompt_is_run_in_its_row_where_that_is_less_or_something_else(
    passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For one row, few tokens, other prompts beside it, an encoder–decoder, a sliding window."""
    backbone = tiny.backbone("llama")
    prompt = of(torch.randn(1, LENGTH, backbone.hidden_size))
    beside = prompt._replace(layers=tiny.prompts("llama", 1, "prefix").layers)
    few = of(torch.randn(1, 5, backbone.hidden_size))
    different = of(torch.randn(3, LENGTH, backbone.hidden_size))
    t5 = tiny.backbone("t5")
    with torch.no_grad():
        for model, made, rows in (
            (backbone, prompt, 1),
            (backbone, few, 3),
            (backbone, beside, 3),
            (backbone, different, 3),
            (backbone, None, 3),
            (t5, of(torch.randn(1, LENGTH, t5.hidden_size)), 3),
        ):
            assert prompt_once(model, made, rows) is made
        monkeypatch.setattr("cpool.language.sharing.window_of", lambda backbone: 64)
        assert prompt_once(backbone, prompt, 3) is prompt
    assert not passes


@pytest.mark.parametrize("more", [-3, 0, 5])
def test_too_long_a_prompt_is_refused_as_in_a_row_of_its_own(more: int) -> None:
    backbone = tiny.backbone("gpt2")
    limit = backbone.position_limit
    assert limit is not None
    long = torch.randn(1, limit + more, backbone.hidden_size)
    said = []
    for tokens in (long, long + torch.randn(3, 1, 1)):
        with pytest.raises(Exception, match="64 tokens, prompts included") as caught:
            labels(backbone, of(tokens), "right")
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]


@pytest.mark.parametrize("answers", ["labels", "completions"])
def test_training_runs_the_prompt_once_a_step_and_learns_the_same(
    answers: str, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def learned() -> Tensor:
        backbone = tiny.backbone("llama")
        torch.manual_seed(0)
        method = PromptTuning(length=LENGTH, answers=answers, init="random")
        learner = Learner(method.build(backbone), seed=0, quiet=True, epochs=2, batch_size=4)
        data: Any = ([*TEXTS, "a dog"], [0, 1, 0, 1])
        if answers == "labels":
            learner.model.name_classes(LABELS[:2])
        else:
            from cpool.data import as_completions

            data = as_completions([*TEXTS, "a dog"], [*SAID, "now"])
        learner.fit_task(data, "first")
        assert learner.model.prompter is not None
        return next(iter(learner.model.prompter)).pool.values().detach()

    together = learned()
    assert passes == [LENGTH] * 2
    monkeypatch.setattr("cpool.language.scoring.prompt_once", lambda backbone, made, rows: made)
    monkeypatch.setattr("cpool.language.completions.prompt_once", lambda backbone, made, rows: made)
    apart = learned()
    assert len(passes) == 2
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_a_prefix_needs_no_pass_of_its_own(passes: list[int]) -> None:
    learner = Learner(
        PrefixTuning(length=LENGTH, init="random").build(tiny.backbone("llama")),
        seed=0,
        quiet=True,
        epochs=1,
        batch_size=4,
    )
    learner.model.name_classes(LABELS[:2])
    learner.fit_task(([*TEXTS, "a dog"], [0, 1, 0, 1]), "first")
    assert not passes
