"""Scores of labels equal those of each label alone, whatever shares its pass."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from cpool.backbones import Backbone, wrap_model
from cpool.errors import BackboneError, DataError
from cpool.inject import encode
from cpool.language import label_trie, score_labels, scoring, sharing
from cpool.prompter import Prompts
from tests import tiny

LABELS = ("red cat", "red dog runs", "blue", "red dog", "blue bird flies in", "house")
TEXTS = ["the cat sleeps on the big house", "a bird", "please help my card now"]
WHAT = ("none", "tokens", "prefix", "both")


def alone(backbone: Backbone, ids: list[int], label: tuple[int, ...], prompts: Prompts) -> Tensor:
    """Return log p(label | prompts, text) from one pass over exactly this text and label."""
    if backbone.kind == "seq2seq":
        return answered(backbone.language_model, ids, label, prompts)
    row = torch.tensor([[*ids, *label]])
    encoded = encode(backbone, {"input_ids": row}, prompts)
    states = encoded.hidden_states[-1][0, -row.shape[1] :]
    table = (states @ backbone.lm_head.weight.T).log_softmax(dim=-1)
    places = range(len(ids) - 1, len(ids) + len(label) - 1)
    return torch.stack(
        [table[place, token] for place, token in zip(places, label, strict=True)]
    ).sum()


def answered(model: Any, ids: list[int], label: tuple[int, ...], prompts: Prompts) -> Tensor:
    """Return log p(label | prompts, text) of transformers' own encoder–decoder."""
    embeds = model.get_input_embeddings()(torch.tensor([ids]))
    if prompts.tokens is not None:
        embeds = torch.cat([prompts.tokens, embeds], dim=1)
    before = torch.tensor([[model.config.decoder_start_token_id, *label[:-1]]])
    made = model(inputs_embeds=embeds, decoder_input_ids=before, cache=tiny.cached(prompts))
    table = made.logits[0].log_softmax(-1)
    return table[range(len(label)), label].sum()


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("kind", tiny.SPEAKING)
@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_are_those_of_each_label_alone(kind, what, side) -> None:
    backbone = tiny.backbone(kind)
    trie = label_trie(LABELS, backbone.processor)
    prompts = tiny.prompts(kind, len(TEXTS), what)
    batch = tiny.padded(backbone.prepare(TEXTS), 3, side)
    scores = score_labels(backbone, batch, prompts, trie)
    for row, text in enumerate(TEXTS):
        ids = backbone.processor.encode(text)
        own = tiny.part(prompts, slice(row, row + 1))
        expected = torch.stack([alone(backbone, ids, s, own) for s in trie.sequences])
        torch.testing.assert_close(scores[row], expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", tiny.DECODERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_all_texts_begin_with_is_run_once_and_scores_stay(kind, side, monkeypatch) -> None:
    backbone = tiny.backbone(kind)
    trie = label_trie(LABELS, backbone.processor)
    begin = "my card is in the house please send help now " * 2
    batch = tiny.padded(backbone.prepare([begin + text for text in TEXTS]), 3, side)
    lengths = []

    def counted(self, ids):
        if len(ids) > 2:  # with two a model is tried out, once
            lengths.append(len(ids))
        return whole(self, ids)

    whole = Backbone.cache_of
    monkeypatch.setattr(Backbone, "cache_of", counted)
    with torch.no_grad():
        scores = score_labels(backbone, batch, None, trie)
    assert lengths == [20]
    for row, text in enumerate(TEXTS):
        ids = backbone.processor.encode(begin + text, add_special_tokens=False)
        none = tiny.prompts(kind, 1, "none")
        expected = torch.stack([alone(backbone, ids, s, none) for s in trie.sequences])
        torch.testing.assert_close(scores[row], expected, atol=2e-5, rtol=1e-5)
    # Texts that are the same, or one that begins the others, leave a word to go on from.
    with torch.no_grad():
        short = backbone.prepare([begin, begin, begin + "cat"])
        scores = score_labels(backbone, short, None, trie)
        expected = score_labels(backbone, tiny.rows(short, slice(0, 1)), None, trie)
    assert lengths == [20, 19]
    torch.testing.assert_close(scores[:2], expected.expand(2, -1), atol=2e-5, rtol=1e-5)


def test_nothing_is_run_apart_where_that_would_change_something(monkeypatch) -> None:
    """Under gradients, behind prompts, for one row, for a short beginning, in a sliding window."""
    backbone = tiny.backbone("llama")
    assert sharing._lasting(backbone)
    monkeypatch.setattr(Backbone, "cache_of", lambda self, ids: pytest.fail("run apart"))
    trie = label_trie(LABELS, backbone.processor)
    begin = "my card is in the house please send help now " * 2
    batch = backbone.prepare([begin + text for text in TEXTS])
    score_labels(backbone, batch, None, trie)
    with torch.no_grad():
        score_labels(backbone, batch, tiny.prompts("llama", 3, "tokens"), trie)
        score_labels(backbone, tiny.rows(batch, slice(0, 1)), None, trie)
        score_labels(backbone, backbone.prepare(["the cat sleeps", "the cat runs"]), None, trie)
        monkeypatch.setattr("cpool.language.sharing.window_of", lambda backbone: 64)
        score_labels(backbone, batch, None, trie)


@pytest.mark.parametrize("block", [1, 400, 2**26])
@pytest.mark.parametrize(("kind", "what"), [("llama", "both"), ("t5", "both")])
def test_gradients_of_prompts_are_those_of_each_label_alone(kind, what, block, monkeypatch) -> None:
    monkeypatch.setattr(scoring, "BLOCK", block)
    backbone = tiny.backbone(kind)
    trie = label_trie(LABELS, backbone.processor)
    made = tiny.prompts(kind, len(TEXTS), what)
    made.tokens.requires_grad_()
    for pair in made.layers.values():
        for tensor in pair:
            tensor.requires_grad_()
    leaves = [made.tokens, *(tensor for pair in made.layers.values() for tensor in pair)]
    weights = torch.randn(len(TEXTS), len(LABELS), generator=torch.Generator().manual_seed(0))
    scores = score_labels(backbone, backbone.prepare(TEXTS), made, trie)
    got = torch.autograd.grad((scores * weights).sum(), leaves)
    total = torch.zeros(())
    for row, text in enumerate(TEXTS):
        ids = backbone.processor.encode(text)
        own = tiny.part(made, slice(row, row + 1))
        for column, sequence in enumerate(trie.sequences):
            total = total + weights[row, column] * alone(backbone, ids, sequence, own)
    for one, other in zip(got, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_probabilities_of_all_continuations_sum_to_one(kind) -> None:
    backbone = tiny.backbone(kind)
    names = [*tiny.WORDS, *tiny.SPECIAL]
    trie = label_trie(names, backbone.processor)
    scores = score_labels(backbone, backbone.prepare(TEXTS), None, trie)
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(len(TEXTS)))


@pytest.mark.parametrize("kind", ["qwen2", "t5"])
def test_a_row_is_the_same_alone_and_in_any_batch(kind) -> None:
    backbone = tiny.backbone(kind)
    trie = label_trie(LABELS, backbone.processor)
    together = score_labels(backbone, backbone.prepare(TEXTS), None, trie)
    for row, text in enumerate(TEXTS):
        single = score_labels(backbone, backbone.prepare([text]), None, trie)[0]
        torch.testing.assert_close(together[row], single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_bfloat16_is_near_and_its_scores_are_float32(kind) -> None:
    exact, half = tiny.backbone(kind), tiny.new(kind, dtype="bfloat16")
    trie = label_trie(LABELS, exact.processor)
    scores = [score_labels(b, b.prepare(TEXTS), None, trie) for b in (exact, half)]
    assert scores[1].dtype == torch.float32
    torch.testing.assert_close(scores[1], scores[0], atol=0.3, rtol=0.05)


def test_mixed_precision_does_not_round_the_sum() -> None:
    backbone = tiny.backbone("llama")
    trie = label_trie(LABELS, backbone.processor)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = score_labels(backbone, backbone.prepare(TEXTS), None, trie)
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())


def test_rows_beyond_a_sliding_window_are_refused() -> None:
    backbone = tiny.new("llama")
    trie = label_trie(LABELS, backbone.processor)
    config = backbone.plain_model.config
    config.sliding_window = 30
    score_labels(backbone, backbone.prepare(TEXTS), None, trie)
    config.sliding_window = 6
    with pytest.raises(DataError, match="the sliding window of 'tiny-llama'"):
        score_labels(backbone, backbone.prepare(TEXTS), None, trie)


def test_live_prompts_are_refused() -> None:
    from tests.common.tasks import trained

    model = trained("osprompt", "llama").learner.model
    batch = model.prepare(TEXTS)
    trie = label_trie(LABELS, model.backbone.processor)
    prompts = model.passes.choose(None, None, len(TEXTS))
    with pytest.raises(BackboneError, match="live prefixes"):
        score_labels(model.backbone, batch, prompts, trie)


def test_scores_are_capped_and_scaled_as_the_model_does_it() -> None:
    backbone = tiny.new("llama")
    hidden = torch.randn(2, tiny.WIDTH)
    plain = backbone.word_logits(hidden)
    config = backbone.plain_model.config
    config.final_logit_softcapping = 3.0
    torch.testing.assert_close(backbone.word_logits(hidden), 3 * torch.tanh(plain / 3))
    config.final_logit_softcapping, config.logit_scale = None, 0.5
    torch.testing.assert_close(backbone.word_logits(hidden), plain / 2)
    config.logit_scale, config.logits_scaling = None, 4.0
    torch.testing.assert_close(backbone.word_logits(hidden), plain / 4)


def test_a_text_that_leaves_no_room_for_the_longest_label_is_refused() -> None:
    backbone = tiny.backbone("gpt2")
    trie = label_trie(LABELS, backbone.processor)
    fits = tiny.TEXT - trie.longest
    ids = torch.randint(4, 20, (1, fits + 1))
    score_labels(backbone, {"input_ids": ids[:, :fits]}, None, trie)
    with pytest.raises(DataError, match="at most 64 tokens, prompts included"):
        score_labels(backbone, {"input_ids": ids}, None, trie)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("T5", {}),  # divides by √D
        ("T5", {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),  # does not
        ("MT5", {}),
        ("UMT5", {}),  # a bias of its own in every layer
    ],
)
def test_kinds_of_t5_score_as_transformers_does(name, options) -> None:
    config = getattr(transformers, f"{name}Config")(**{**tiny._MODELS["t5"][1], **options})
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    backbone = wrap_model(model, tiny.backbone("t5").processor)
    trie = label_trie(LABELS, backbone.processor)
    prompts = tiny.prompts("t5", len(TEXTS), "both")
    scores = score_labels(backbone, backbone.prepare(TEXTS), prompts, trie)
    for row, text in enumerate(TEXTS):
        ids, own = backbone.processor.encode(text), tiny.part(prompts, slice(row, row + 1))
        expected = torch.stack([answered(model, ids, s, own) for s in trie.sequences])
        torch.testing.assert_close(scores[row], expected, atol=2e-5, rtol=1e-5)


def test_the_encoder_and_the_decoder_of_a_t5_run_once_for_all_labels() -> None:
    backbone, calls = tiny.new("t5"), []
    for part in (backbone.model, backbone.decoder):
        part.register_forward_hook(lambda module, args, output: calls.append(module))
    score_labels(backbone, backbone.prepare(TEXTS), None, label_trie(LABELS, backbone.processor))
    assert calls == [backbone.model, backbone.decoder]


def test_a_decoder_that_cannot_be_packed_or_started_is_refused() -> None:
    backbone = tiny.new("t5")
    trie, batch = label_trie(LABELS, backbone.processor), backbone.prepare(TEXTS)
    bias = backbone.decoder.block[0].layer[0].SelfAttention
    bias.compute_bias = lambda length, keys, **options: torch.zeros(1, 4, length, keys)
    with pytest.raises(BackboneError, match="has no such bias"):
        score_labels(backbone, batch, None, trie)
    config = backbone.language_model.config
    config.decoder_start_token_id = None
    backbone.language_model.generation_config.decoder_start_token_id = None
    with pytest.raises(BackboneError, match="a decoder_start_token_id"):
        score_labels(backbone, batch, None, trie)


def test_an_encoder_has_no_words() -> None:
    backbone = tiny.backbone("bert")
    trie = label_trie(LABELS, backbone.processor)
    with pytest.raises(BackboneError, match="decoder"):
        score_labels(backbone, backbone.prepare(TEXTS), None, trie)
