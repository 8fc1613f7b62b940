"""Behind the start token of a text an untouched slot is the hard prompt, on every decoder."""

import warnings
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from cpool import Learner
from cpool.backbones import Backbone, wrap_model
from cpool.distil import agreement, distil
from cpool.distil.comparing import text_prompts
from cpool.errors import BackboneError, PoolError
from cpool.export._fixed import fixed_prompts, fixed_selections
from cpool.initialisers import from_text, from_text_cache, normal
from cpool.inject import encode
from cpool.inject.start import hidden_start, started
from cpool.interop.peft import export_peft
from cpool.interop.transformers import CpoolForCausalLM
from cpool.language import generate, label_trie, score_completions, score_labels, sharing
from cpool.methods import PrefixTuning, PromptTuning, ZeroShot
from cpool.policies import Everything
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, PrefixSite, Prompter, Prompts, sorted_prompts
from cpool.selection import Selection
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream

HARD = ["the cat sleeps in the house", "red", "please help my card now"]
TEXTS = ["a bird", "lost", "the big dog runs"]
BOTH = [f"{hard} {text}" for hard, text in zip(HARD, TEXTS, strict=True)]
SAID = ["red cat", "blue", "house river bird"]
NAMES = ["red cat", "red dog runs", "blue"]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
NEW = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
WHAT = ("tokens", "prefix")
GRID = [(kind, what) for kind in tiny.DECODERS for what in WHAT]


def site_of(backbone: Backbone, what: str, *, after: bool = True) -> EmbeddingSite | PrefixSite:
    if what == "tokens":
        return EmbeddingSite(after_start=after)
    layers = tuple(range(backbone.num_layers))
    return PrefixSite(layers, backbone.num_kv_heads, after_start=after)


def branch_of(backbone: Backbone, what: str, texts: list[str]) -> Branch:
    """Return a slot for each hard prompt, as long as it is."""
    site = site_of(backbone, what)
    if what == "tokens":
        starts, width = [from_text(backbone, t) for t in texts], backbone.hidden_size
    else:
        starts = [from_text_cache(backbone, text, after_start=True) for text in texts]
        width = backbone.num_kv_heads * backbone.head_dim
    pool = PromptPool(site.sites, max(start.length for start in starts), width)
    for start in starts:
        pool.shorten(pool.grow(1, start)[0], start.length)
    return Branch("words", pool, Everything(), site, start=len(texts))


def chosen(branch: Branch, slots: list[int]) -> Prompts:
    index = torch.tensor(slots)[:, None]
    if len(set(slots)) == 1:
        index = index[:1].expand(len(slots), -1)
    values, selection = branch.read(Selection(index, None, torch.zeros(())))
    return sorted_prompts([(branch.site, values, selection.real)], torch.zeros(()), {})


def states(backbone: Backbone, text: str, number: int) -> Tensor:
    """Return the states of the last tokens of a text that is read by itself."""
    return encode(backbone, backbone.prepare([text]), None).hidden_states[-1][0, -number:]


def test_who_begins_a_text_with_a_start_token() -> None:
    assert [tiny.starting(kind).start_token for kind in tiny.DECODERS] == [0] * len(tiny.DECODERS)
    kinds = (*tiny.DECODERS, "t5", "bert", "vit")
    assert not any(tiny.backbone(kind).has_start for kind in kinds)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("kind", "what"), GRID)
def test_an_untouched_slot_computes_the_hard_prompt(kind, what, side) -> None:
    """Of different length in one batch, scored, followed, and gone on with."""
    backbone = tiny.starting(kind)
    prompts = chosen(branch_of(backbone, what, HARD), [0, 1, 2])
    assert prompts.after_start and (prompts.real is not None or prompts.spans)
    batch = tiny.padded(backbone.prepare(TEXTS), 3, side)
    made = encode(backbone, batch, prompts)
    for row, text in enumerate(TEXTS):
        mine = made.hidden_states[-1][row][made.mask[row]]
        assert len(mine) == len(text.split())
        torch.testing.assert_close(mine, states(backbone, BOTH[row], len(mine)), **CLOSE)
    trie = label_trie(NAMES, backbone.processor)
    hard = tiny.padded(backbone.prepare(BOTH), 1, side)
    expected = score_labels(backbone, hard, None, trie)
    torch.testing.assert_close(score_labels(backbone, batch, prompts, trie), expected, **CLOSE)
    rows = [backbone.prepare(texts, completions=SAID) for texts in (TEXTS, BOTH)]
    expected = score_completions(backbone, rows[1], None)
    torch.testing.assert_close(score_completions(backbone, rows[0], prompts), expected, **CLOSE)
    for options in (NEW, {**NEW, "num_beams": 3}):
        expected = generate(backbone, hard, None, **options)
        assert torch.equal(generate(backbone, batch, prompts, **options), expected)


@pytest.mark.parametrize(("kind", "what"), GRID)
def test_one_slot_for_all_rows_is_run_once_and_is_the_hard_prompt(kind, what, monkeypatch) -> None:
    backbone, ran, whole = tiny.starting(kind), [], Backbone.cache_of

    def counted(self: Backbone, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        ran.append(len(tokens))
        return whole(self, tokens)

    monkeypatch.setattr(sharing, "SAVED", 1)
    monkeypatch.setattr(Backbone, "cache_of", counted)
    prompts = chosen(branch_of(backbone, what, HARD[:1]), [0, 0, 0])
    hard = backbone.prepare([f"{HARD[0]} {text}" for text in TEXTS])
    trie = label_trie(NAMES, backbone.processor)
    expected = score_labels(backbone, hard, None, trie)
    ran.clear()
    scores = score_labels(backbone, backbone.prepare(TEXTS), prompts, trie)
    assert what == "prefix" or ran[-1:] == [1 + len(HARD[0].split())]
    torch.testing.assert_close(scores, expected, **CLOSE)


@pytest.mark.parametrize("what", WHAT)
def test_rows_that_begin_without_the_token_have_the_prompt_in_front(what) -> None:
    backbone = tiny.starting("llama")
    prompts = chosen(branch_of(backbone, what, HARD[:2]), [0, 1])
    whole = backbone.processor(TEXTS[:2], padding=True, return_tensors="pt")
    batch = {key: whole[key] for key in ("input_ids", "attention_mask")}
    batch["attention_mask"][1, 0] = 0  # the second row is without
    trie = label_trie(NAMES, backbone.processor)
    scores = score_labels(backbone, batch, prompts, trie)
    if what == "prefix":  # what was kept behind a start token is no hard prompt without one
        spans = {number: span[1:] for number, span in prompts.spans.items()}
        bare = tiny.part(prompts, slice(1, 2))._replace(spans=spans, after_start=False)
        expected = score_labels(backbone, tiny.rows(batch, slice(1, 2)), bare, trie)
    else:
        ids = torch.tensor([backbone.processor.encode(BOTH[1], add_special_tokens=False)])
        expected = score_labels(backbone, {"input_ids": ids}, None, trie)
    torch.testing.assert_close(scores[1:], expected, **CLOSE)
    expected = score_labels(backbone, backbone.prepare(BOTH[:1]), None, trie)
    torch.testing.assert_close(scores[:1], expected, **CLOSE)


def naive(backbone: Backbone, rows: Tensor, text: str) -> Tensor:
    """Return the states of a text's words behind start token and prompt, put in a row by hand."""
    embed = backbone.plain_model.get_input_embeddings()
    ids = torch.tensor(backbone.processor.encode(text))
    row = torch.cat([embed(ids[:1]), rows, embed(ids[1:])])[None]
    place = torch.arange(row.shape[1])[None]
    made = backbone.plain_model(inputs_embeds=row, position_ids=place).last_hidden_state[0]
    return made[-(len(ids) - 1) :]


def test_what_is_kept_of_the_token_trains_after_a_pass_in_inference_mode() -> None:
    kind = "llama"
    backbone = wrap_model(tiny.language_model(kind), tiny.tokenizer(end=False))
    branch = branch_of(backbone, "prefix", HARD[:1])
    trie = label_trie(NAMES, backbone.processor)
    batch = backbone.prepare(TEXTS)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        score_labels(backbone, batch, chosen(branch, [0, 0, 0]), trie)
    scores = score_labels(backbone, batch, chosen(branch, [0, 0, 0]), trie)
    hard = backbone.prepare([f"{HARD[0]} {text}" for text in TEXTS])
    torch.testing.assert_close(scores, score_labels(backbone, hard, None, trie), **CLOSE)
    scores.sum().backward()
    assert branch.pool.blocks[0].grad.abs().sum() > 0


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_gradients_are_those_of_a_row_put_together_by_hand(kind, shared, monkeypatch) -> None:
    monkeypatch.setattr(sharing, "SAVED", 1)
    backbone = tiny.starting(kind)
    torch.manual_seed(0)
    values = torch.randn(1 if shared else len(TEXTS), 4, backbone.hidden_size)
    got, expected = [], []
    rows = backbone.prepare(TEXTS, completions=SAID)
    for result in (got, expected):
        leaf = values.clone().requires_grad_()
        tokens = leaf.expand(len(TEXTS), -1, -1)
        if result is got:
            prompts = Prompts(tokens, {}, torch.zeros(()), {}, after_start=True)
            total = score_completions(backbone, rows, prompts)[:, 0].sum()
        else:
            total = torch.zeros(())
            for row, said in enumerate(rows["completion"]):
                words = said[said >= 0]
                follow = backbone.processor.decode(words[:-1])
                made = naive(backbone, tokens[row], f"{TEXTS[row]} {follow}")
                scores = backbone.word_logits(made[-len(words) :]).log_softmax(dim=-1)
                total = total + scores[range(len(words)), words].sum()
        total.backward()
        result += [total.detach(), leaf.grad]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", [PromptTuning, PrefixTuning])
def test_a_method_that_starts_from_text_begins_as_the_hard_prompt(method) -> None:
    backbone = tiny.starting("llama")
    options = {"labels": LABELS, "normalise": "sum"}
    own = {"init": "text", "text": HARD[0], "length": None}
    soft = method(template="{{ text }} now", **own, **options).build(backbone)
    hard = ZeroShot(template=HARD[0] + " {{ text }} now", **options).build(backbone)
    task = stream("llama")[0]
    models = []
    for model in (soft, hard):
        model.begin_task(task.classes)
        model.eval()
        for branch in model.prompter or ():
            branch.pool.mark_trained(torch.tensor([[0]]))
        models.append(model(model.prepare(list(task.test.x[:5])), task=0).logits)
    torch.testing.assert_close(*models, **CLOSE)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
@pytest.mark.parametrize("what", [*WHAT, "cartridge"])
def test_peft_loads_a_slot_with_the_start_token_as_its_first(what, tmp_path) -> None:
    backbone = tiny.starting("llama")
    site = site_of(backbone, "tokens" if what == "tokens" else "prefix")
    width = backbone.hidden_size
    if what != "tokens":
        width = backbone.num_kv_heads * backbone.head_dim
    torch.manual_seed(0)
    pool = PromptPool(site.sites, 3, width, normal(0.5))
    branch = Branch("own", pool, Everything(), site, start=1)
    pool.grow(1)
    options: dict[str, Any] = {"base": "tiny", "cartridge": what == "cartridge"}
    with pytest.raises(PoolError, match=r"backbone=…, whose start token"):
        export_peft(branch, 0, tmp_path / "no", **options)
    with pytest.raises(PoolError, match="has no start token"):
        export_peft(branch, 0, tmp_path / "no", backbone=tiny.backbone("llama"), **options)
    assert not (tmp_path / "no").exists()
    export_peft(branch, 0, tmp_path / "mine", backbone=backbone, **options)
    base = tiny.language_model("llama")
    base.load_state_dict(backbone.language_model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)
        theirs = PeftModel.from_pretrained(base, str(tmp_path / "mine")).eval()
    bare = backbone.processor(TEXTS, padding=True, return_tensors="pt", add_special_tokens=False)
    rows = {key: bare[key] for key in ("input_ids", "attention_mask")}
    made = encode(backbone, backbone.prepare(TEXTS), Prompter([branch]).forced(0))
    with torch.no_grad():
        expected = theirs(**rows).logits[:, -rows["input_ids"].shape[1] :]
        got = backbone.word_logits(made.hidden_states[-1][made.mask])
    torch.testing.assert_close(got, expected[rows["attention_mask"].bool()], rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", [PromptTuning, PrefixTuning])
def test_a_row_of_a_trainer_has_the_logits_of_the_hard_prompt(method, side) -> None:
    backbone = tiny.starting("llama")
    made = method(
        init="text", text=HARD[0], length=None, template="{{ text }}", labels=LABELS, slots="shared"
    )
    model = CpoolForCausalLM.of(made.build(backbone))
    model.begin_task("any", [])
    model.prompted.prompter.branches["prompt"].pool.mark_trained(torch.tensor([[0]]))
    rows = tiny.padded(backbone.prepare(TEXTS), 1, side)
    labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    labels = labels.masked_fill(hidden_start(backbone, rows), -100)  # nothing is before it
    for training in (False, True):
        model.train(training)
        out = model(**rows, labels=labels)
        total, count = torch.zeros(()), 0
        for row, text in enumerate(TEXTS):
            mine = out.logits[row][rows["attention_mask"][row].bool()][1:]
            words = len(text.split())
            hard = backbone.word_logits(states(backbone, f"{HARD[0]} {text}", words))
            torch.testing.assert_close(mine, hard, atol=1e-4, rtol=1e-4)
            ids = torch.tensor(backbone.processor.encode(text)[2:], dtype=torch.int64)
            scores = hard[:-1].log_softmax(dim=-1)  # the first word is no label
            total, count = total - scores[range(len(ids)), ids].sum(), count + len(ids)
        torch.testing.assert_close(out.loss, total / count, atol=1e-4, rtol=1e-4)
    out.logits.sum().backward()
    assert model.prompted.prompter.branches["prompt"].pool.blocks[0].grad.isfinite().all()


@pytest.mark.parametrize("site", WHAT[::-1])
def test_a_distilled_text_is_read_behind_the_start_token(site) -> None:
    backbone = tiny.starting("llama")
    document = " ".join(HARD)
    prompts = text_prompts(backbone, document)
    made = encode(backbone, backbone.prepare(TEXTS), prompts)
    for row, text in enumerate(TEXTS):
        mine = made.hidden_states[-1][row][made.mask[row]]
        hard = states(backbone, f"{document} {text}", len(mine))
        torch.testing.assert_close(mine, hard, **CLOSE)
    number = len(document.split())
    options = {"length": number, "site": site, "epochs": 1, "lr": 1e-6, "quiet": True}
    slot = distil(backbone, document, TEXTS, **options)
    assert slot.branch.site.after_start
    assert slot.losses[0] == pytest.approx(0.0, abs=1e-5)  # it starts as what it shall become
    told = agreement(backbone, TEXTS, prompts, slot.prompts())
    bare = agreement(backbone, TEXTS, prompts, None)
    assert told.same == 1.0 and told.words == bare.words == sum(len(t.split()) for t in TEXTS)
    assert bare.divergence > 0.01


def test_without_prompts_behind_it_a_start_token_stays(monkeypatch) -> None:
    backbone = tiny.starting("llama")
    batch = backbone.prepare(TEXTS)
    assert hidden_start(backbone, batch).sum(dim=1).tolist() == [1, 1, 1]
    in_front = chosen(branch_of(backbone, "tokens", HARD), [0, 1, 2])._replace(after_start=False)
    for prompts in (None, in_front):
        assert started(backbone, batch, prompts) == (batch, prompts)
    nothing = Prompts(None, {}, torch.zeros(()), {}, after_start=True)
    made = encode(backbone, batch, nothing)
    for row, text in enumerate(TEXTS):
        mine = made.hidden_states[-1][row][made.mask[row]]
        torch.testing.assert_close(mine, states(backbone, text, len(mine)), **CLOSE)


def test_a_checkpoint_of_a_prompt_behind_the_start_token(tmp_path) -> None:
    backbone = tiny.starting("llama")
    learner = Learner(PromptTuning(labels=LABELS, length=2).build(backbone), seed=0, quiet=True)
    learner.fit_task(stream("llama")[0])
    learner.save(tmp_path / "kept")
    again = Learner.load(tmp_path / "kept", backbone, device="cpu", quiet=True)
    batch = learner.model.prepare(TEXTS)
    learner.model.eval(), again.model.eval()
    assert torch.equal(learner.model(batch).logits, again.model(batch).logits)


def test_what_does_not_go_together_is_refused() -> None:
    backbone = tiny.starting("llama")
    one = branch_of(backbone, "tokens", HARD[:1])
    other = branch_of(backbone, "prefix", HARD[:1])
    other.site = site_of(backbone, "prefix", after=False)
    with pytest.raises(PoolError, match=r"words: after_start=True, more: after_start=False"):
        other.name = "more"
        Prompter([one, other])
    prompter = Prompter([one])
    one.pool.mark_trained(torch.tensor([[0]]))
    picked = fixed_selections(prompter, {"words": [0]}, None)
    with pytest.raises(BackboneError, match="behind the start token"):
        fixed_prompts(backbone, prompter, picked)
    assert fixed_prompts(tiny.backbone("llama"), prompter, picked) is not None
