"""Scores of completions equal plain transformers on one row, whatever shares the batch."""

import pytest
import torch

from cpool.backbones import TruncationWarning
from cpool.backbones.completions import completion_ids, gap
from cpool.data import as_completions, make_loader
from cpool.errors import BackboneError, ConfigError, DataError
from cpool.language import blocks, generate, score_completions
from cpool.methods import PromptTuning
from cpool.model import PromptedModel
from tests import tiny

TEXTS = ["the cat sleeps on the big house", "a bird", "please help my card now"]
SAID = ["red fish", "now", "send the stolen card now please"]
END = 2


def naive(backbone, text: str, said: str, prompt) -> torch.Tensor:
    """Return Σ log p of one completion by the language model's own forward on that row alone."""
    model, words = backbone.language_model, backbone.processor
    answer = [*words.encode(" " + said, add_special_tokens=False), END]
    embeds = model.get_input_embeddings()(torch.tensor(words.encode(text)))
    if prompt is not None:
        embeds = torch.cat([prompt, embeds])
    if backbone.kind == "seq2seq":
        start = model.config.decoder_start_token_id
        ids = torch.tensor([[start, *answer[:-1]]])
        logits = model(inputs_embeds=embeds[None], decoder_input_ids=ids).logits[0]
    else:
        after = model.get_input_embeddings()(torch.tensor(answer))
        logits = model(inputs_embeds=torch.cat([embeds, after])[None]).logits[0]
        logits = logits[len(embeds) - 1 : -1]
    scores = logits.double().log_softmax(dim=1)
    return torch.stack([scores[i, word] for i, word in enumerate(answer)]).sum()


def padded(batch: dict[str, torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    texts = {key: value for key, value in batch.items() if key != "completion"}
    return {**tiny.padded(texts, 2, side), "completion": batch["completion"]}


@pytest.mark.parametrize("kind", tiny.SPEAKING)
@pytest.mark.parametrize("what", ["none", "tokens"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_score_is_that_of_the_row_alone_in_plain_transformers(kind, what, side) -> None:
    backbone, prompts = tiny.backbone(kind), tiny.prompts(kind, len(TEXTS), what)
    batch = padded(backbone.prepare(TEXTS, completions=SAID), side)
    with torch.no_grad():
        found = score_completions(backbone, batch, prompts)
        for row, (text, said) in enumerate(zip(TEXTS, SAID, strict=True)):
            own = None if prompts.tokens is None else prompts.tokens[row]
            expected = naive(backbone, text, said, own)
            torch.testing.assert_close(found[row, 0].double(), expected, atol=1e-4, rtol=1e-5)
            alone = backbone.prepare([text], completions=[said])
            one = score_completions(backbone, alone, tiny.part(prompts, slice(row, row + 1)))
            torch.testing.assert_close(one[0], found[row], atol=1e-4, rtol=1e-5)
    assert found[:, 1].tolist() == [len(said.split()) + 1 for said in SAID]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_the_loss_of_a_step_and_its_gradient_are_those_of_all_completion_tokens(kind) -> None:
    backbone = tiny.backbone(kind)
    model = PromptTuning(length=3, template="{{ text }}", answers="completions").build(backbone)
    model.begin_task([0])
    (block,) = model.prompter.branches["prompt"].pool.blocks
    batch = model.prepare(TEXTS, SAID)
    output = model({**batch, "labels": torch.zeros(3, dtype=torch.int64)}, task=0)
    terms = [naive(backbone, t, s, block[0, 0]) for t, s in zip(TEXTS, SAID, strict=True)]
    expected = -torch.stack(terms).sum() / sum(len(said.split()) + 1 for said in SAID)
    torch.testing.assert_close(output.loss.double(), expected, atol=1e-5, rtol=1e-5)
    (wanted,) = torch.autograd.grad(expected, block)
    (found,) = torch.autograd.grad(output.loss, block)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_blocks_of_logits_change_nothing(monkeypatch) -> None:
    backbone = tiny.backbone("llama")
    prompts = tiny.prompts("llama", 3, "tokens")
    prompts.tokens.requires_grad_()
    batch = backbone.prepare(TEXTS, completions=SAID)
    whole = score_completions(backbone, batch, prompts)
    (wanted,) = torch.autograd.grad(whole[:, 0].sum(), prompts.tokens)
    monkeypatch.setattr(blocks, "BLOCK", 2 * backbone.vocabulary_size)
    parts = score_completions(backbone, batch, prompts)
    (found,) = torch.autograd.grad(parts[:, 0].sum(), prompts.tokens)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", tiny.SPEAKING)
def test_greedy_words_are_those_of_transformers_and_end_at_the_end_token(kind) -> None:
    backbone, prompts = tiny.backbone(kind), tiny.prompts(kind, len(TEXTS), "tokens")
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": END, "pad_token_id": 1}
    made = generate(backbone, backbone.prepare(TEXTS), prompts, **options)
    model = backbone.language_model
    for row, text in enumerate(TEXTS):
        ids = torch.tensor(backbone.processor.encode(text))
        embeds = torch.cat([prompts.tokens[row], model.get_input_embeddings()(ids)])[None]
        mask = torch.ones(embeds.shape[:2], dtype=torch.int64)
        alone = model.generate(inputs_embeds=embeds, attention_mask=mask, **options)[0]
        alone = alone[1:] if backbone.kind == "seq2seq" else alone
        assert made[row, : len(alone)].tolist() == alone.tolist()


def test_a_space_stands_before_a_completion_unless_there_is_white_space() -> None:
    words = tiny.backbone("llama").processor
    assert completion_ids(words, "red fish") == [*words.encode("red fish"), END]
    assert gap("a text", "said") == " "
    assert gap("a text\n", "said") == gap("", " said") == gap("a", "\nsaid") == ""


def test_what_does_not_fit_is_cut_from_the_text_alone_and_counted_once() -> None:
    backbone = tiny.backbone("gpt2")
    long, said = " ".join(["cat"] * 70), ["red", " ".join(["fish"] * 20)]
    with pytest.warns(TruncationWarning, match="2 texts were longer than 60 tokens") as seen:
        batch = backbone.prepare([long, long], 60, ("my ", " now"), said)
    assert len(seen) == 1
    # The end token needs no position: nothing is predicted after it.
    assert batch["attention_mask"].sum(dim=1).tolist() == [59, 40]
    assert (batch["completion"] != -100).sum(dim=1).tolist() == [2, 21]
    ids = backbone.processor.convert_tokens_to_ids
    for row in range(2):
        own = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        assert (own[0], own[-1]) == (ids("my"), ids("now"))
    with pytest.warns(TruncationWarning, match="1 text was longer than 60"):
        plain = backbone.prepare([long, "a cat"], 60, ("", ""), said)
    assert plain["attention_mask"].sum(dim=1).tolist() == [59, 2]
    # Beside an encoder an answer has positions of its own.
    with pytest.warns(TruncationWarning, match="2 texts were longer than 60"):
        apart = tiny.backbone("t5").prepare([long, long], 60, ("", ""), said)
    assert apart["attention_mask"].sum(dim=1).tolist() == [60, 60]


@pytest.mark.parametrize(
    ("said", "error", "says"),
    [
        (["red", "  ", "now"], DataError, "completions with words"),
        (["red", "now"], DataError, "a completion for each of 3 texts"),
        (["red", "now", "cat " * 64], DataError, "1 longer ones; the first has 64"),
    ],
)
def test_completions_of_a_wrong_kind_are_refused(said, error, says) -> None:
    with pytest.raises(error, match=says):
        tiny.backbone("gpt2").prepare(TEXTS, completions=said)


def test_what_cannot_end_or_has_nothing_to_score_is_refused() -> None:
    backbone = tiny.new("llama")
    with pytest.raises(DataError, match="texts with completions"):
        score_completions(backbone, backbone.prepare(TEXTS), None)
    backbone.processor.eos_token = None
    with pytest.raises(BackboneError, match="an end token"):
        backbone.prepare(TEXTS, completions=SAID)


def test_rows_keep_their_completions_and_are_told_apart_by_them() -> None:
    rows = as_completions(TEXTS, SAID)
    (batch,) = make_loader(rows.take([2, 0]), tiny.backbone("llama"))
    expected = tiny.backbone("llama").prepare([TEXTS[2], TEXTS[0]], completions=[SAID[2], SAID[0]])
    assert torch.equal(batch["completion"], expected["completion"])
    assert rows.source != as_completions(TEXTS, SAID[::-1]).source
    joined = type(rows).concat([rows.take([0]), rows.take([1])])
    assert joined.completions == SAID[:2]
    with pytest.raises(DataError, match="a completion for each of 3 texts"):
        as_completions(TEXTS, SAID[:2])


def test_a_method_of_completions_takes_no_labels() -> None:
    with pytest.raises(ConfigError, match="labels None"):
        PromptTuning(answers="completions", labels=("a", "b"))
    with pytest.raises(ConfigError, match='init other than "labels"'):
        PromptTuning(answers="completions", init="labels")
    with pytest.raises(BackboneError, match="a language model"):
        PromptTuning(answers="completions").build(tiny.backbone("bert"))
    assert isinstance(PromptTuning(answers="completions").build(tiny.backbone("t5")), PromptedModel)


def test_who_has_no_words_takes_no_completions() -> None:
    for kind in ("vit", "bert"):
        with pytest.raises(BackboneError, match="a language model"):
            tiny.backbone(kind).prepare(tiny.raw(kind, 1), completions=["now"])
    for texts in ([None], "a cat", [3]):
        with pytest.raises(DataError, match="texts"):
            tiny.backbone("llama").prepare(texts, completions=["now"])
