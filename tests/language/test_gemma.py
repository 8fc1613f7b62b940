"""Models that scale their input embedding, cap their logits, or cap their attention: Gemma."""

import pytest
import torch
import transformers
from torch import Tensor

from cpool.backbones import Backbone, wrap_model
from cpool.errors import BackboneError
from cpool.initialisers import from_labels
from cpool.language import LabelWords, label_trie, score_labels
from cpool.learner import Learner
from cpool.methods import HardPromptTuning, PrefixTuning, PromptTuning, ZeroShot, words_of_slot
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream

TEXTS = ["the cat sleeps on the big house", "a bird", "please help my card now"]
OPTIONS = {
    "Gemma": {},
    "Gemma2": {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0},
    "Gemma3": {"query_pre_attn_scalar": 8},
}


def made(kind: str) -> Backbone:
    config = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    sizes = {**tiny._TEXT, "num_key_value_heads": 2, "head_dim": 8, **OPTIONS[kind]}
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, config)(**sizes))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.25)
    return wrap_model(model.eval(), tiny.tokenizer(special=False), name=kind)


def own(model: object, ids: list[int], label: tuple[int, ...]) -> Tensor:
    """Return log p(label | text) of the model of transformers, from ids alone."""
    with torch.no_grad():
        table = model(torch.tensor([[*ids, *label]])).logits[0].log_softmax(dim=-1)
    places = range(len(ids) - 1, len(ids) + len(label) - 1)
    return sum(table[place, token] for place, token in zip(places, label, strict=True))


@pytest.mark.parametrize("kind", OPTIONS)
def test_scores_are_those_of_the_models_own_logits(kind) -> None:
    backbone = made(kind)
    embed = backbone.plain_model.get_input_embeddings()
    assert not torch.equal(embed(torch.tensor([5])), embed.weight[[5]])  # it does scale
    trie = label_trie(LABELS, backbone.processor)
    with torch.no_grad():
        scores = score_labels(backbone, backbone.prepare(TEXTS), None, trie)
    for row, text in enumerate(TEXTS):
        ids = backbone.processor.encode(text)
        expected = torch.stack([own(backbone.language_model, ids, s) for s in trie.sequences])
        torch.testing.assert_close(scores[row], expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_prompt_that_starts_from_words_computes_what_they_do(kind) -> None:
    backbone, text = made(kind), "please open the card"
    options = {"labels": LABELS, "slots": "shared", "length": None, "text": text}
    methods = [
        ZeroShot(labels=LABELS, template=text + " {{ text }} now"),
        PromptTuning(template="{{ text }} now", init="text", **options),
    ]
    if kind != "Gemma2":
        methods.append(PrefixTuning(template="{{ text }} now", **options))
    logits = []
    for method in methods:
        model = method.build(backbone)
        model.begin_task(range(6))
        for branch in model.prompter or ():
            branch.pool.mark_trained(torch.tensor([[0]]))
        with torch.no_grad():
            logits.append(model.eval()(model.prepare(TEXTS)).logits)
    for soft in logits[1:]:
        torch.testing.assert_close(soft, logits[0], atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", OPTIONS)
def test_words_that_are_drawn_or_found_are_words_as_the_model_reads_them(kind) -> None:
    backbone = made(kind)
    embed = backbone.plain_model.get_input_embeddings()
    with torch.no_grad():
        known = embed(torch.arange(len(embed.weight)))
    drawn = PromptTuning(length=4, labels=LABELS, slots="shared").build(backbone)
    drawn.begin_task(range(6))
    words = LabelWords(backbone.processor, LABELS)
    words.expect([0])  # one token, "cat"; what follows is drawn
    named = from_labels(backbone, words)((1, 1, 4, tiny.WIDTH))[0, 0]
    for row in (*next(iter(drawn.prompter)).pool.values()[0, 0], *named):
        assert any(torch.equal(row, word) for word in known)
    with seeded(0, "build"):
        model = HardPromptTuning(length=3, labels=LABELS, template="{{ text }} now").build(backbone)
    task = stream("llama")[0]
    Learner(model, seed=0, device="cpu", quiet=True, epochs=1, batch_size=6).fit_task(task)
    found = " ".join(words_of_slot(model, 0))
    hard = ZeroShot(labels=LABELS, template=f"{found} {{{{ text }}}} now").build(backbone)
    hard.begin_task(task.classes)
    with torch.no_grad():
        soft = model.eval()(model.prepare(TEXTS), task=0).logits
        wanted = hard.eval()(hard.prepare(TEXTS)).logits
    torch.testing.assert_close(soft, wanted, atol=5e-5, rtol=1e-5)


def test_a_prefix_needs_attention_without_a_cap_on_its_scores() -> None:
    for method in (PrefixTuning(length=2, init="random"), PrefixTuning(text="the red house")):
        with pytest.raises(BackboneError, match=r"got Gemma2Attention, which caps its scores at 5"):
            method.build(made("Gemma2"))
