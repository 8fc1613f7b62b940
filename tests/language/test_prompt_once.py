"""A prompt that all rows of a batch have is run once, and nothing else changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from cpool import Learner
from cpool.backbones import Backbone, wrap_model
from cpool.by_kind import rows_of
from cpool.errors import BackboneError
from cpool.language import label_trie, score_completions, score_labels
from cpool.language.sharing import prompt_once
from cpool.methods import PrefixTuning, PromptTuning
from cpool.prompter import Prompts
from cpool.ragged import beside
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
        if len(tokens) > 2:  # with two a model is tried out, once
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


OTHERS: dict[str, dict[str, Any]] = {
    # A state beside keys and values; layers with a state alone; no attention interface; keys and
    # values of two widths.
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64, "mamba_n_groups": 1}
    | {"mamba_d_state": 4, "head_dim": 8},
    "lfm2": {"full_attn_idxs": [1]},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
    "deepseek_v2": {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8}
    | {"qk_rope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 2}
    | {"num_key_value_heads": 4, "head_dim": 4},
}


def other(family: str) -> Backbone:
    """Return a random decoder of a family whose layers keep something else."""
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128}
    words = tiny.tokenizer(special=False)
    ids = {"vocab_size": len(words), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = transformers.AutoConfig.for_model(family, **(size | ids | OTHERS[family]))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in name:
                weight.normal_(0.0, 0.2)
    return wrap_model(model, words, name=family)


RECURRENT = ("falcon_h1", "lfm2")


@pytest.mark.parametrize("family", OTHERS)
def test_where_a_layer_keeps_something_else_the_prompt_stays_in_its_rows(family: str) -> None:
    backbone = other(family)
    prompt = of(torch.randn(1, LENGTH, backbone.hidden_size))
    assert prompt_once(backbone, prompt, 3) is prompt
    together = score_completions(backbone, backbone.prepare(TEXTS, completions=SAID), prompt)
    for row, (text, said) in enumerate(zip(TEXTS, SAID, strict=True)):
        batch = backbone.prepare([text], completions=[said])
        alone = score_completions(backbone, batch, prompt)
        torch.testing.assert_close(together[row], alone[0], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", [family for family in OTHERS if family not in RECURRENT])
@pytest.mark.parametrize("prompted", [True, False])
def test_labels_are_scored_in_rows_there(family: str, prompted: bool) -> None:
    backbone = other(family)
    prompt = of(torch.randn(1, LENGTH, backbone.hidden_size)) if prompted else None
    begin = "my card is in the house please send help now " * 2
    trie = label_trie(LABELS, backbone.processor)
    with torch.no_grad():
        batch = backbone.prepare([begin + text for text in TEXTS])
        together = score_labels(backbone, batch, prompt, trie)
        for row, text in enumerate(TEXTS):
            alone = score_labels(backbone, backbone.prepare([begin + text]), prompt, trie)
            torch.testing.assert_close(together[row], alone[0], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", RECURRENT)
def test_labels_do_not_branch_off_where_a_layer_has_a_state(family: str) -> None:
    """It would go from the words of one label into those of the next."""
    with pytest.raises(BackboneError, match=r"whose layers all attend.*completions"):
        labels(other(family), of(torch.randn(1, LENGTH, 32)), "right")


def test_a_trial_leaves_a_copy_that_trains_as_it_was() -> None:
    backbone = tiny.new("gpt2").trainable_copy()
    backbone.plain_model.train()
    backbone.plain_model.h[0].eval()
    modes = [module.training for module in backbone.plain_model.modules()]
    state = torch.random.get_rng_state()
    assert (
        backbone.kept_shapes == (((1, tiny.HEADS, 2, tiny.WIDTH // tiny.HEADS),) * 2,) * tiny.DEPTH
    )
    assert [module.training for module in backbone.plain_model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("family", RECURRENT)
def test_keys_and_values_are_not_given_out_where_they_are_not_all(family: str) -> None:
    with pytest.raises(BackboneError, match=r"and nothing else; got .*Linear"):
        other(family).cache_of(torch.tensor([4, 5, 6]))


def test_keys_that_are_turned_by_the_length_of_the_pass_are_not_shared() -> None:
    model = tiny.language_model("llama")
    model.config.rope_parameters = {"rope_type": "longrope", "rope_theta": 10000.0}
    backbone = wrap_model(model, tiny.tokenizer(special=False))
    prompt = of(torch.randn(1, LENGTH, backbone.hidden_size))
    assert prompt_once(backbone, prompt, 3) is prompt


def test_a_frozen_model_that_somebody_put_into_training_is_run_as_frozen() -> None:
    backbone = tiny.new("gpt2")
    expected = labels(backbone, of(torch.ones(1, LENGTH, backbone.hidden_size)), "right")
    backbone.plain_model.train()
    found = labels(backbone, of(torch.ones(1, LENGTH, backbone.hidden_size)), "right")
    assert torch.equal(found, expected)
    backbone.plain_model.train()
    kept = backbone.cache_of(torch.tensor([4, 5, 6]))
    assert not backbone.plain_model.training
    assert torch.equal(kept[-1][0], backbone.cache_of(torch.tensor([4, 5, 6]))[-1][0])


@pytest.mark.parametrize("shape", [(1, LENGTH, 5), (4, LENGTH, tiny.WIDTH), (LENGTH, tiny.WIDTH)])
def test_prompts_of_a_wrong_shape_are_refused_before_they_are_run(shape: tuple[int, ...]) -> None:
    with torch.no_grad(), pytest.raises(BackboneError, match=r"prompt tokens \[3 N 32\]"):
        labels(tiny.backbone("llama"), of(torch.zeros(shape)), "right")


def test_the_prompt_that_is_run_is_a_copy() -> None:
    """There are models that scale their inputs in place."""
    backbone = tiny.new("llama")
    prompt = torch.randn(1, LENGTH, backbone.hidden_size)
    before = prompt.clone()

    def scaled(module: Any, args: Any, kwargs: Any) -> Any:
        if "inputs_embeds" in kwargs:
            kwargs["inputs_embeds"].mul_(2.0)
        return args, kwargs

    backbone.plain_model.register_forward_pre_hook(scaled, with_kwargs=True)
    with torch.no_grad():
        labels(backbone, of(prompt), "right")
    assert torch.equal(prompt, before)


def test_one_row_expanded_stays_that_when_rows_are_split_and_branches_joined() -> None:
    tokens = torch.randn(1, LENGTH, 4).expand(6, -1, -1)
    part = rows_of(of(tokens), torch.tensor([True, False, True, True, False, False]))
    assert part.tokens is not None
    assert part.tokens.stride(0) == 0
    assert torch.equal(part.tokens, tokens[:3])
    more = torch.randn(1, 2, 4).expand(6, -1, -1)
    joined, _ = beside([(tokens, None), (more, None)], dim=1)
    assert joined.stride(0) == 0
    assert torch.equal(joined, torch.cat([tokens, more], 1))
    mixed = torch.randn(6, 2, 4)
    assert torch.equal(
        beside([(tokens, None), (mixed, None)], dim=1)[0], torch.cat([tokens, mixed], 1)
    )
