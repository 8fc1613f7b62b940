"""Models of completions, as `cpool tune` makes them, in the tools of Hugging Face."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Trainer,
    pipeline,
)

from cpool.backbones import TruncationWarning, load_backbone, wrap_model
from cpool.data import as_completions
from cpool.errors import ConfigError, DataError, StateError
from cpool.interop.transformers import CpoolForCausalLM, TaskCallback
from cpool.learner import Learner
from cpool.methods import PromptTuning
from tests import tiny
from tests.interop.trained import arguments, same, stacked, weights

TASKS = ("red bird", "blue fish")
TEXTS = (
    ["the cat sleeps", "a dog runs", "the bird eats in the tree", "a small cat runs now"] * 2,
    ["lost card", "bank loan open", "please close my card now", "send the stolen card"] * 2,
)
ANSWERS = (["red house", "green"] * 4, ["pay now", "close"] * 4)
NEW = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A folder of a frozen model."""
    folder = tmp_path_factory.mktemp("llama")
    tiny.language_model("llama").save_pretrained(folder)
    talking().processor.save_pretrained(folder)
    return folder


def method(**changes) -> PromptTuning:
    return PromptTuning(
        **{"length": 3, "answers": "completions", "template": "{{ text }}", **changes}
    )


def learned(backbone, **changes) -> Learner:
    """Return a learner that has learned both tasks."""
    torch.manual_seed(0)
    made = method(**changes).build(backbone)
    learner = Learner(made, quiet=True, device="cpu", epochs=2, lr=0.1, batch_size=4)
    for task, (texts, answers) in enumerate(zip(TEXTS, ANSWERS, strict=True)):
        learner.fit_task(as_completions(texts, answers, label=task), TASKS[task])
    return learner


def teach(model: CpoolForCausalLM, task: int, folder: Path, name: str, **changes) -> Trainer:
    run = Trainer(
        model=model,
        args=arguments(folder, **changes),
        train_dataset=model.rows(TEXTS[task], ANSWERS[task]),
        callbacks=[TaskCallback(name)],
    )
    run.train()
    return run


def pool(model: CpoolForCausalLM):
    return model.prompted.prompter.branches["prompt"].pool


def test_a_trainer_teaches_a_new_model_and_goes_on_with_a_learners(tmp_path) -> None:
    model = CpoolForCausalLM.of(method().build(tiny.backbone("gpt2")))
    backbone = weights(model.backbone)
    teach(model, 0, tmp_path, TASKS[0], num_train_epochs=10, learning_rate=0.3)
    rows = stacked(model.rows(TEXTS[0], ANSWERS[0]))
    with torch.no_grad():
        after = float(model(**rows).loss)
        # The same as the prompted model itself says of what shall follow the same texts.
        batch = model.prompted.prepare(TEXTS[0], ANSWERS[0])
        labels = torch.zeros(len(TEXTS[0]), dtype=torch.int64)
        own = float(model.prompted({**batch, "labels": labels}).loss)
    assert after == pytest.approx(own, abs=1e-5)
    fresh = CpoolForCausalLM.of(method().build(tiny.backbone("gpt2")))
    fresh.begin_task(TASKS[0])
    with torch.no_grad():
        assert after < 0.97 * float(fresh(**rows).loss)
    assert same(backbone, weights(model.backbone))

    learner = learned(tiny.backbone("llama"))
    model = CpoolForCausalLM.of(learner.model)
    kept = [block.detach().clone() for block in pool(model).blocks]
    teach(model, 1, tmp_path, "a third")
    assert model.prompted.tasks == [(0,), (1,), (2,)]
    assert all(torch.equal(a, b) for a, b in zip(kept, pool(model).blocks[:2], strict=True))
    with pytest.raises(DataError, match=r"'a_third', the same as an earlier one"):
        model.begin_task("a_third")
    with pytest.raises(DataError, match="the name of a task"):
        model.begin_task(" ")
    assert model.begin_task("a fourth") == 3
    assert model.runs("a fourth")
    assert not model.runs("a third")


WORDS = {
    "plain": {},
    "template": {"template": "please {{ text }} help:"},
    "chat": {"template": "my {{ text }} now", "chat": True},
}


def talking(kind: str = "llama"):
    """Return a new backbone whose tokenizer has a chat template."""
    backbone = tiny.new(kind)
    backbone.processor.chat_template = (
        "{% for m in messages %}the {{ m['content'] }} help{% endfor %}"
        "{% if add_generation_prompt %} please{% endif %}"
    )
    return backbone


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("answers", ["completions", "labels"])
def test_rows_are_what_a_learner_reads_of_the_same_texts(words, answers) -> None:
    torch.manual_seed(0)
    prompted = method(**WORDS[words], answers=answers).build(talking())
    model = CpoolForCausalLM.of(prompted)
    model.begin_task(TASKS[0])
    made = prompted.prepare(TEXTS[0], ANSWERS[0])
    rows = model.rows(TEXTS[0], ANSWERS[0])
    for row, found in enumerate(rows):
        text = tiny.unpadded({k: made[k] for k in ("input_ids", "attention_mask")}, row)
        (said,) = made["completion"][row : row + 1]
        ids = [*text["input_ids"][0].tolist(), *said[said != -100].tolist()]
        assert found["input_ids"][found["attention_mask"].bool()].tolist() == ids
        assert (
            found["labels"][found["labels"] != -100].tolist() == ids[-int((said != -100).sum()) :]
        )
    torch.testing.assert_close(stacked(rows)["query"], made["query"], atol=1e-5, rtol=1e-5)
    if answers == "completions":
        labels = torch.zeros(len(TEXTS[0]), dtype=torch.int64)
        own = prompted({**made, "labels": labels}, task=0).loss
        torch.testing.assert_close(model(**stacked(rows)).loss, own, atol=1e-5, rtol=1e-5)


def test_a_space_stands_between_a_text_and_its_completion() -> None:
    """One of the user's own is no second one, and none is put where the template ends a line."""
    model = CpoolForCausalLM.of(method(template="{{ text }}").build(spelling()))
    letters = model.backbone.processor
    for said, text in (("no", "a"), (" no", "a"), ("no", "a\n")):
        (row,) = model.rows([text], [said])
        gap = "" if text.endswith("\n") else " "
        expected = [*letters.encode(f"{text}{gap}no"), letters.eos_token_id]
        assert row["input_ids"].tolist() == expected


def spelling():
    """Return a backbone whose tokenizer spells, with white space as letters."""
    core = Tokenizer(BPE({c: i for i, c in enumerate("#anol \n:bLe")}, [], unk_token="#"))
    words = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="#", eos_token="#")
    return wrap_model(tiny.language_model("llama"), words, name="tiny-letters")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("words", WORDS)
def test_a_prompt_is_chosen_by_the_text_without_the_words(kind, words) -> None:
    learner = learned(talking(kind), **WORDS[words])
    model = CpoolForCausalLM.of(learner.model)
    texts, seen = TEXTS[0][:2] + TEXTS[1][:2], []
    policy = learner.model.prompter.branches["prompt"].policy
    policy.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    made = learner.model.prepare(texts, room=5)
    expected = learner.model.generate(made, **NEW)
    given = tiny.padded(model.backbone.prepare(texts), 1, "left")
    ids = model.generate(**given, **NEW)
    width = given["input_ids"].shape[1]
    assert torch.equal(ids[:, :width], given["input_ids"])
    assert torch.equal(ids[:, width:], expected)
    torch.testing.assert_close(*seen, atol=1e-5, rtol=1e-5)
    few = learner.model.generate(made, max_new_tokens=2, do_sample=False)
    model.generation_config = GenerationConfig(max_new_tokens=2, do_sample=False)
    assert torch.equal(model.generate(**given)[:, width:], few)


@pytest.mark.parametrize("words", ["plain", "template"])
def test_what_leaves_no_room_for_new_words_is_cut_with_one_warning(words) -> None:
    learner = learned(talking(), **WORDS[words])
    model = CpoolForCausalLM.of(learner.model)
    texts = ["the cat sleeps", "a dog runs " * 30, "lost card " * 40]
    with pytest.warns(TruncationWarning):
        batch = learner.model.prepare(texts, room=5)
    expected = model.backbone.processor.batch_decode(
        learner.model.generate(batch, **NEW), skip_special_tokens=True
    )
    go_on = pipeline("text-generation", model=model, tokenizer=model.backbone.processor)
    with pytest.warns(TruncationWarning) as warned:
        found = go_on(texts, batch_size=3, return_full_text=False, **NEW)
    (warning,) = [w for w in warned if w.category is TruncationWarning]
    assert str(warning.message) == "2 texts were longer than 56 tokens; the end was cut."
    assert [row[0]["generated_text"] for row in found] == expected
    with pytest.raises(ConfigError, match=r"fewer new words \(max_new_tokens\)"):
        go_on(texts[0], max_new_tokens=61)


def test_a_chat_is_no_text_to_put_words_around() -> None:
    backbone = talking()
    backbone.processor.chat_template = backbone.processor.chat_template.replace("the", "<s>", 1)
    said = [{"role": "user", "content": TEXTS[0][0]}]
    for words, refused in (("plain", False), ("template", True)):
        model = CpoolForCausalLM.of(learned(backbone, **WORDS[words]).model)
        go_on = pipeline("text-generation", model=model, tokenizer=backbone.processor)
        if refused:
            with pytest.raises(DataError, match=r"no text, \['<s>'\].*plain texts in place of"):
                go_on(said, **NEW)
        else:
            assert go_on(said, **NEW)[0]["generated_text"][1]["role"] == "assistant"


def test_before_a_task_and_where_others_make_the_rows_it_says_so() -> None:
    model = CpoolForCausalLM.of(method(**WORDS["template"]).build(talking()))
    batch = model.backbone.prepare(TEXTS[0])
    with pytest.raises(StateError, match="begun at least one task"):
        model.generate(**batch, **NEW)
    model.begin_task(TASKS[0])
    with pytest.raises(ConfigError, match=r"others make the rows; got .*please .* help:"):
        model.base_model(**batch)


def test_a_task_of_free_text_takes_no_label_of_a_model_that_classified() -> None:
    torch.manual_seed(0)
    prompted = PromptTuning(length=2, labels=("cat", "dog", "bird")).build(tiny.backbone("llama"))
    prompted.begin_task([0, 1])
    model = CpoolForCausalLM.of(prompted)
    model.begin_task(TASKS[0])
    assert model.prompted.tasks == [(0, 1), (3,)]
    assert model.runs(TASKS[0])
    model(**stacked(model.rows(TEXTS[0], ANSWERS[0]))).loss.backward()


@pytest.mark.parametrize("words", WORDS)
def test_a_pipeline_goes_on_as_the_learner_from_a_folder_too(words, base, tmp_path) -> None:
    learner = learned(load_backbone(base), **WORDS[words])
    model = CpoolForCausalLM.of(learner.model)
    texts = [TEXTS[0][0], TEXTS[1][0], TEXTS[1][2]]
    batch = learner.model.prepare(texts, room=5)
    ids = learner.model.generate(batch, **NEW)
    expected = model.backbone.processor.batch_decode(ids, skip_special_tokens=True)
    model.save_pretrained(tmp_path / "mine")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "mine")
    assert type(again) is CpoolForCausalLM
    assert same(model.state_dict(), again.state_dict())
    state = load_file(tmp_path / "mine" / "model.safetensors")
    assert not [key for key in state if "prompter" not in key]
    for one in (model, again, str(tmp_path / "mine")):
        go_on = pipeline("text-generation", model=one, tokenizer=str(base))
        for size in (1, 3):
            found = go_on(texts, batch_size=size, return_full_text=False, **NEW)
            assert [row[0]["generated_text"] for row in found] == expected
            whole = go_on(texts, batch_size=size, **NEW)
            assert all(
                row[0]["generated_text"].startswith(text)
                for row, text in zip(whole, texts, strict=True)
            )
    # The names of tasks are kept, so that none comes twice.
    again.begin_task("a third")
    again.end_task([stacked(again.rows(TEXTS[0], ANSWERS[0]))])
    again.save_pretrained(tmp_path / "more")
    assert json.loads((tmp_path / "more" / "config.json").read_text())["task_names"] == {
        "2": "a third"
    }
    more = CpoolForCausalLM.from_pretrained(tmp_path / "more")
    with pytest.raises(DataError, match="the same as an earlier one"):
        more.begin_task("a third")


def test_push_to_hub_uploads_the_folder_of_a_model_of_completions(base, monkeypatch) -> None:
    model = CpoolForCausalLM.of(learned(load_backbone(base)).model)
    seen = []

    class Api:
        def create_repo(self, name, **options):
            return type("Repo", (), {"repo_id": name})()

        def create_commit(self, repo_id, operations, **options):
            seen.extend(sorted(part.path_in_repo for part in operations))

    class Card:
        def save(self, path) -> None:
            Path(path).write_text("A pool of prompts.")

    from transformers.utils import hub

    monkeypatch.setattr(hub, "hf_api", Api)
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *a, **k: Card())
    with pytest.raises(ConfigError, match="a folder of this machine"):
        model.push_to_hub("mine")
    model.base = "somebody/tiny-llama"
    model.push_to_hub("mine")
    assert seen == ["README.md", "config.json", "generation_config.json", "model.safetensors"]
