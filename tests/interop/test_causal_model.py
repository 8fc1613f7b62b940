"""Free text under prompts: loss and words against plain transformers, in a Trainer and by hand."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GenerationConfig, Trainer

from cpool.backbones import Backbone
from cpool.errors import BackboneError, ConfigError, DataError
from cpool.interop.transformers import CpoolConfig, CpoolForCausalLM, TaskCallback
from cpool.interop.transformers.completions import asked
from cpool.interop.transformers.config import described
from cpool.methods import LinearHead, LoRA, PrefixTuning, PromptTuning, ZeroShot
from tests import tiny
from tests.interop.trained import arguments, same, stacked, weights

TASKS = ("red bird", "blue fish")
ANIMALS = ["the cat sleeps", "a dog runs", "the bird eats in the tree", "a small cat runs now"] * 2
MONEY = ["lost card", "bank loan open", "please close my card now", "send the stolen card"] * 2
TEXTS = (ANIMALS, MONEY)
ANSWERS = (["red house", "green"] * 4, ["pay now", "close"] * 4)
BARE = {"template": "{{ text }}"}  # no words around a text; those have tests of their own
KINDS = {
    "tokens": lambda: PromptTuning(length=3, **BARE),
    "long": lambda: PromptTuning(length=9, **BARE),  # so long that it is run once for all rows
    "prefix": lambda: PrefixTuning(length=3, init="random", **BARE),
}
NEW = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}


def wrapped(kind: str, what: str = "tokens") -> CpoolForCausalLM:
    torch.manual_seed(0)
    return CpoolForCausalLM.of(KINDS[what]().build(tiny.backbone(kind)))


def trainer(model, task: int, folder, **changes) -> Trainer:
    rows = model.rows(TEXTS[task], ANSWERS[task])
    return Trainer(
        model=model,
        args=arguments(folder, **changes),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[TaskCallback(TASKS[task])],
    )


def naive(model, batch, prompt):
    """Return −mean log p of the labels, one row after another, by the language model alone."""
    language = model.backbone.language_model
    terms = []
    for ids, mask, labels in zip(
        batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
    ):
        ids, labels = ids[mask.bool()], labels[mask.bool()]
        words = language.get_input_embeddings()(ids)
        logits = language(inputs_embeds=torch.cat([prompt, words])[None]).logits[0]
        for place in range(1, len(ids)):
            if labels[place] != -100:
                scores = logits[len(prompt) + place - 1].double().log_softmax(dim=0)
                terms.append(-scores[labels[place]])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("kind", tiny.DECODERS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("what", ["tokens", "long"])
def test_the_loss_is_that_of_the_completion_after_the_prompt(kind, side, what, monkeypatch):
    model = wrapped(kind, what)
    model.begin_task(TASKS[0])
    batch = stacked(model.rows(ANIMALS, ANSWERS[0]))
    query = batch.pop("query")
    places = tiny.padded({k: v for k, v in batch.items() if k != "labels"}, 2, side)
    marked = tiny.padded({**batch, "input_ids": batch["labels"]}, 2, side)["input_ids"]
    moved = {**places, "labels": marked.masked_fill(places["attention_mask"] == 0, -100)}
    assert (moved["labels"] != -100).sum() == (batch["labels"] != -100).sum()
    block = next(iter(model.prompted.prompter)).pool.blocks[0]
    expected = naive(model, batch, block[0, 0])
    apart, whole = [], Backbone.cache_of
    monkeypatch.setattr(Backbone, "cache_of", lambda *a: apart.append(len(a[1])) or whole(*a))
    found = model(**moved, query=query)
    # With two tokens a model is tried out, once.
    assert [length for length in apart if length > 2] == ([9] if what == "long" else [])
    torch.testing.assert_close(found.loss.double(), expected, atol=1e-5, rtol=1e-5)
    assert found.logits.shape == (*moved["input_ids"].shape, model.config.vocab_size)
    (wanted,) = torch.autograd.grad(expected, block)
    (step,) = torch.autograd.grad(found.loss, block)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(step, wanted, atol=1e-5, rtol=1e-4)
    # Told the number of labels of a larger batch, the loss is a part of its mean.
    number = int((batch["labels"] != -100).sum())
    part = model(**moved, query=query, num_items_in_batch=2 * number).loss
    torch.testing.assert_close(part, found.loss / 2)


@pytest.mark.parametrize(("kind", "what"), [("gpt2", "tokens"), ("llama", "prefix")])
def test_a_trainer_teaches_a_prompt_a_task_and_nothing_else(kind, what, tmp_path):
    model = wrapped(kind, what)
    backbone = weights(model.backbone)
    run = trainer(model, 0, tmp_path, num_train_epochs=15, learning_rate=0.3)
    rows = run.train_dataset
    first = model.prompted.prompter.branches["prompt"].pool.blocks[0]
    with torch.no_grad():
        before = float(model(**stacked(rows)).loss)
    run.train()
    assert run.evaluate()["eval_loss"] < 0.97 * before
    assert run.predict(rows).predictions.shape == (*stacked(rows)["input_ids"].shape, 41)
    kept = first.detach().clone()
    answer = model(**stacked(rows)).logits
    trainer(model, 1, tmp_path).train()
    assert same(backbone, weights(model.backbone))
    assert torch.equal(kept, first)
    assert not first.requires_grad
    # Nobody tells the task: the router does, by the text alone.
    torch.testing.assert_close(model(**stacked(rows)).logits, answer)
    model.task = 1
    assert not torch.allclose(model(**stacked(rows)).logits, answer, atol=1e-2)


def test_gradients_are_accumulated_over_labels_not_over_batches(tmp_path):
    ends = []
    for size, steps in ((8, 1), (2, 4)):
        model = wrapped("llama")
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer(model, 0, tmp_path, optim="sgd", num_train_epochs=1, **options).train()
        ends.append(model.prompted.prompter.branches["prompt"].pool.values())
    torch.testing.assert_close(*ends, atol=1e-5, rtol=0)


def test_the_prompt_is_chosen_by_what_is_asked_never_by_the_answer():
    none = -100
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]])
    labels = torch.tensor(
        [[none, none, 7, none], [none, none, none, 7], [5, 6, 7, none], [none] * 4]
    )
    expected = [[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    assert asked(mask, labels).tolist() == expected
    model = wrapped("llama")
    for task in range(2):
        model.begin_task(TASKS[task])
        rows = model.rows(TEXTS[task], ANSWERS[task])
        model(**stacked(rows)).loss.backward()
        # The ends read the queries in the rows, or make the same ones from what is asked.
        without = [{k: v for k, v in row.items() if k != "query"} for row in rows]
        router = copy.deepcopy(model.prompted.prompter.branches["prompt"].policy)
        router.end_task(stacked(rows)["query"], task)
        model.end_task([stacked(without)])
        own = model.prompted.prompter.branches["prompt"].policy
        # The same sums, added up in batches of another size.
        torch.testing.assert_close(own.total, router.total, atol=1e-5, rtol=1e-5)
    # Questions of one task with answers in the words of the other.
    mixed = stacked(model.rows(ANIMALS, MONEY))
    query = mixed.pop("query")
    with torch.no_grad():
        untold = model(**mixed).logits
        model.task = 0
        told = model(**mixed, query=query).logits
    torch.testing.assert_close(untold, told)


@pytest.mark.parametrize("side", ["left", "right"])
def test_generate_returns_the_text_and_what_follows(side):
    model = wrapped("llama")
    model.begin_task(TASKS[0])
    model(**stacked(model.rows(ANIMALS, ANSWERS[0])))
    model.eval()
    batch = tiny.padded(model.backbone.prepare(ANIMALS[:3]), 2, side)
    ids = model.generate(**batch, **NEW)
    width = batch["input_ids"].shape[1]
    assert torch.equal(ids[:, :width], batch["input_ids"])
    for row in range(3):
        alone = tiny.unpadded(batch, row)
        for _ in range(5):
            with torch.no_grad():
                new = model(**alone).logits[:, -1].argmax(dim=1, keepdim=True)
            alone["input_ids"] = torch.cat([alone["input_ids"], new], dim=1)
            alone["attention_mask"] = torch.ones_like(alone["input_ids"])
        assert torch.equal(ids[row, width:], alone["input_ids"][0, -5:])
    several = model.generate(**batch, **{**NEW, "num_beams": 2}, num_return_sequences=2)
    assert torch.equal(several[:, :width], batch["input_ids"].repeat_interleave(2, dim=0))
    model.generation_config = GenerationConfig(max_new_tokens=2, do_sample=False)
    assert model.generate(**batch).shape == (3, width + 2)
    with pytest.raises(ConfigError, match="ids as the answer"):
        model.generate(**batch, return_dict_in_generate=True)


def test_an_encoder_that_would_have_seen_the_answer_is_refused(tmp_path):
    model = PromptTuning(length=3).build(tiny.backbone("t5"))
    with pytest.raises(ConfigError, match=r"before a decoder.*prompt_tuning on 'tiny-t5'.*seq2seq"):
        CpoolForCausalLM.of(model)
    CpoolConfig(**described(model)).save_pretrained(tmp_path)
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"Build one of these on a decoder"):
        AutoModelForCausalLM.from_pretrained(tmp_path, backbone=model.backbone)


def test_what_does_not_fit_is_refused():
    for method, kind in ((LinearHead(), "llama"), (ZeroShot(), "llama"), (LoRA(rank=2), "gpt2")):
        with pytest.raises(ConfigError, match="PromptTuning or PrefixTuning"):
            CpoolForCausalLM.of(method.build(tiny.backbone(kind)))
    model = wrapped("llama")
    with pytest.raises(DataError, match="the name of a task"):
        model.begin_task([0, 1])
    with pytest.raises(DataError, match="a completion for each"):
        model.rows(ANIMALS, ["red"])
    for nothing in ("", " "):
        with pytest.raises(DataError, match=r"completions with words; got '"):
            model.rows(["the cat", "a dog"], [" red", nothing])
        with pytest.raises(DataError, match=r"non-empty texts; got .* at position 1"):
            model.rows(["the cat", nothing], [" red", "red"])
    with pytest.raises(DataError, match=r"at most 61 tokens.*in row 1"):
        model.rows(["a cat", "a cat " * 40], ["red", "red"])
    model.begin_task(TASKS[0])
    batch = stacked(model.rows(ANIMALS, ANSWERS[0]))
    with pytest.raises(DataError, match=r"position_ids.*without packing"):
        model(**batch, position_ids=torch.zeros_like(batch["input_ids"]))
    with pytest.raises(DataError, match="input_ids of shape"):
        model(attention_mask=batch["attention_mask"])
    model(**batch)
    model.end_task([batch])
    with pytest.raises(DataError, match="same"):
        model.begin_task(TASKS[0])
    assert not model.running
    assert model.begin_task(TASKS[1]) == 1


def test_a_completion_has_an_end_or_is_refused():
    model = CpoolForCausalLM.of(KINDS["tokens"]().build(tiny.new("llama")))
    model.backbone.processor.eos_token = None
    with pytest.raises(BackboneError, match=r"an end token.*Set tokenizer\.eos_token"):
        model.rows(["the cat"], ["red"])
