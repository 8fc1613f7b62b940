"""Rows of prompt and completion: tuned, loaded, asked, grown; and the same from the shell."""

import csv
import json
import re
import warnings

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from cpool import Learner, wrap_model
from cpool.backbones import TruncationWarning
from cpool.cli.app import app
from cpool.data import as_completions
from cpool.errors import ConfigError, DataError
from cpool.methods import PromptTuning
from cpool.tuning import AddedCompletions, Tuned, tune
from cpool.tuning.completions import _found
from tests import tiny
from tests.language.test_completions import naive

FAST = {"epochs": 4, "device": "cpu", "quiet": True, "lr": 0.1}
END = 2


def rows(n: int = 20, seed: int = 0, words: tuple[str, ...] = tiny.WORDS) -> dict[str, list[str]]:
    """Return rows whose completion is what one of two words in the prompt asks for."""
    rng, made = np.random.default_rng(seed), {"prompt": [], "completion": []}
    for number in range(n):
        asked, said = (("card", "pay now"), ("cat", "sleeps"))[number % 2]
        made["prompt"].append(" ".join([*rng.choice(words, 4), asked]))
        made["completion"].append(said)
    return made


def write(path, columns: dict[str, list[str]]):
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for kind in ("llama", "gpt2", "t5", "bert"):
        made[kind] = tmp_path_factory.mktemp(kind)
        model = tiny.model(kind) if kind == "bert" else tiny.language_model(kind)
        model.save_pretrained(made[kind])
        speaks = kind in tiny.SPEAKING
        words = tiny.tokenizer(special=kind not in tiny.DECODERS, start=not speaks)
        words.save_pretrained(made[kind])
    return made


@pytest.fixture(scope="module")
def first(folders, tmp_path_factory):
    """A model of one task, which tests copy or leave as it is."""
    return tune(rows(), folders["llama"], tmp_path_factory.mktemp("first") / "mine", **FAST)


def held_of(folder, task: int = 0) -> list[dict[str, str]]:
    lines = (folder / "held-out.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["task"] == task]


def pool(tuned: Tuned):
    return tuned.learner.model.prompter.branches["prompt"].pool


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_what_is_said_of_a_prompt_is_what_plain_transformers_makes_of_it(
    kind, folders, tmp_path
) -> None:
    tuned = tune(rows(), folders[kind], tmp_path / "mine", name="asked", **FAST)
    found = {row["row"]: row for row in tuned.record.compared}
    assert list(found) == ["no prompt", "hard prompt, rows shown", "prompt_tuning"]
    (task,) = tuned.record.tasks
    assert (task.name, task.rows, task.held_out, tuned.record.kind) == (
        "asked",
        16,
        4,
        "completions",
    )
    assert (task.completions["shortest"], task.completions["longest"]) == (2, 3)
    assert task.completions["cut"] == 0
    held = held_of(tmp_path / "mine")
    assert len(held) == 4
    assert {row["prompt"] for row in held} <= set(rows()["prompt"])
    backbone = tuned.learner.model.backbone
    (block,) = pool(tuned).blocks
    assert pool(tuned).slots[0].trained_steps > 0
    for name, prompt in (("no prompt", None), ("prompt_tuning", block[0, 0].detach())):
        with torch.no_grad():
            total = sum(
                float(naive(backbone, row["prompt"], row["completion"], prompt)) for row in held
            )
        tokens = sum(len(row["completion"].split()) + 1 for row in held)
        assert found[name]["loss"] == pytest.approx(-total / tokens, abs=1e-4)
    assert found["prompt_tuning"]["loss"] < found["no prompt"]["loss"]
    assert found["prompt_tuning"]["trained_parameters"] == block.numel()
    assert found["no prompt"]["trained_parameters"] == 0
    # Greedy words of the language model itself, from embeddings, until the end token.
    model, right = backbone.language_model, []
    said = tuned.generate([row["prompt"] for row in held])
    for row, words in zip(held, said, strict=True):
        ids = torch.tensor(backbone.processor.encode(row["prompt"]))
        embeds = torch.cat([block[0, 0].detach(), model.get_input_embeddings()(ids)])[None]
        mask = torch.ones(embeds.shape[:2], dtype=torch.int64)
        made = model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=3,
            do_sample=False,
            eos_token_id=END,
            pad_token_id=1,
        )[0]
        made = made[1:] if backbone.kind == "seq2seq" else made
        assert words == backbone.processor.decode(made, skip_special_tokens=True)
        right.append(words.strip() == row["completion"])
    assert found["prompt_tuning"]["exact_match"] == pytest.approx(np.mean(right))


def test_a_prompt_learns_what_to_say_and_where_to_end(folders, tmp_path) -> None:
    options = {**FAST, "epochs": 40}
    tuned = tune(rows(), folders["llama"], tmp_path / "mine", **options)
    none, _, kept = tuned.record.compared
    assert kept["exact_match"] >= 0.5 > none["exact_match"]
    assert kept["loss"] < 0.5 * none["loss"]
    # Without a limit of words the end token ends it.
    said = tuned.generate(rows()["prompt"][:4], max_new_tokens=10)
    assert {words.strip() for words in said} <= {"pay now", "sleeps"}


def test_the_prompt_starts_from_rows_that_are_shown(folders, tmp_path) -> None:
    tuned = tune(rows(), folders["llama"], tmp_path / "mine", template="help {{ text }}", **FAST)
    text = tuned.learner.model.method.text
    held = {row["prompt"] for row in held_of(tmp_path / "mine")}
    said = dict(zip(*rows().values(), strict=True))
    lines = text.splitlines()
    assert len(lines) >= 2
    for line in lines:
        prompt = next(p for p in said if line.startswith(f"help {p} "))
        assert line == f"help {prompt} {said[prompt]}"
        assert prompt not in held
    assert pool(tuned).length == len(text.split())
    long = {"prompt": ["cat " * 20 + word for word in tiny.WORDS[:6]], "completion": ["now"] * 6}
    drawn = tune(long, folders["llama"], tmp_path / "other", **FAST)
    assert drawn.learner.model.method.init == "vocabulary"
    assert [row["row"] for row in drawn.record.compared] == ["no prompt", "prompt_tuning"]


def test_a_loaded_model_is_the_same(first) -> None:
    again = Tuned.load(first.folder, device="cpu")
    assert again.record == first.record
    assert torch.equal(pool(again).values(), pool(first).values())
    texts = rows(seed=1)["prompt"]
    assert again.generate(texts[:5]) == first.generate(texts[:5])


def test_a_task_is_added_and_the_older_one_does_not_move(folders, tmp_path) -> None:
    tune(rows(), folders["llama"], tmp_path / "mine", **FAST)
    tuned = Tuned.load(tmp_path / "mine", device="cpu")
    before = pool(tuned).blocks[0].clone()
    asked = [row["prompt"] for row in held_of(tmp_path / "mine")]
    said = tuned.generate(asked, "first")
    more = rows(16, seed=2, words=("bank", "loan", "rate", "send", "stolen"))
    added = tuned.add({**more, "completion": ["close"] * 16}, "second")
    assert isinstance(added, AddedCompletions)
    assert added.changed == 0
    assert added.told_before == added.told_after == added.before
    assert set(added.after) == {"first"}
    assert {name: sum(counts.values()) for name, counts in added.routed.items()} == {
        "first": 4,
        "second": 3,
    }
    again = Tuned.load(tmp_path / "mine", device="cpu")
    assert torch.equal(pool(again).blocks[0], before)
    assert again.generate(asked, "first") == said
    assert [task.name for task in again.record.tasks] == ["first", "second"]
    assert len(held_of(tmp_path / "mine", 1)) == 3
    # The loss of the new task is that of the prompts to which the router sends its rows.
    backbone, total, tokens = again.learner.model.backbone, 0.0, 0
    held = held_of(tmp_path / "mine", 1)
    query = backbone.query(backbone.prepare([row["prompt"] for row in held]))
    slots = again.learner.model.prompter(query).selections["prompt"].index[:, 0].tolist()
    for row, slot in zip(held, slots, strict=True):
        prompt = pool(again).blocks[slot][0, 0].detach()
        with torch.no_grad():
            total += float(naive(backbone, row["prompt"], row["completion"], prompt))
        tokens += len(row["completion"].split()) + 1
    assert added.loss == pytest.approx(-total / tokens, abs=1e-4)
    assert [slots.count(0), slots.count(1)] == list(added.routed["second"].values())
    # A third task: both older ones stay.
    assert again.add(rows(seed=5), "third").changed == 0
    with pytest.raises(DataError, match="a new name"):
        again.add(rows(), "second")


def test_long_prompts_are_cut_and_counted_once_and_completions_never(folders, tmp_path) -> None:
    columns = rows(10)
    columns["prompt"] = [
        f"{prompt} {'cat ' * 60}" if i < 3 else prompt for i, prompt in enumerate(columns["prompt"])
    ]
    # 64 positions, of which 20 have drawn words (the first row is too long to start from), and 3
    # the words that are generated.
    with pytest.warns(TruncationWarning, match="3 texts were longer than 41") as seen:
        tuned = tune(columns, folders["gpt2"], tmp_path / "mine", **FAST)
    assert len(seen) == 1
    assert tuned.record.tasks[0].completions["cut"] == 3
    with pytest.warns(TruncationWarning) as seen:
        assert len(tuned.generate(["cat " * 70, "a bird"])) == 2
    assert len(seen) == 1
    columns["completion"][4] = "now " * 50
    with pytest.raises(DataError, match="1 longer ones; the first has 50"):
        tune(columns, folders["gpt2"], tmp_path / "other", **FAST)
    assert not (tmp_path / "other").exists()


def test_rows_of_one_prompt_are_held_out_together(folders, tmp_path) -> None:
    columns = {name: values * 3 for name, values in rows(8).items()}
    tune(columns, folders["llama"], tmp_path / "mine", **FAST)
    held = [row["prompt"] for row in held_of(tmp_path / "mine")]
    assert len(held) == 6
    assert all(held.count(prompt) == 3 for prompt in held)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"prompt": ["a cat", " "], "completion": ["now", "now"]}, "a prompt with words"),
        ({"prompt": ["a cat", "a dog"], "completion": ["now", ""]}, "a completion with words"),
        ({"prompt": ["a cat", "a dog"], "completion": ["now"]}, "completion"),
        ({"prompt": ["a cat", "a dog"]}, "text,label or prompt,completion"),
        ({"prompt": ["a cat"], "label": ["x"]}, "Rename or add a column"),
        ({**rows(), "text": ["x"] * 20, "label": ["y"] * 20}, "Drop the columns of one kind"),
        ({"prompt": ["a cat"] * 4, "completion": ["now"] * 4}, "two different prompts"),
    ],
)
def test_rows_that_teach_nothing_are_refused_and_nothing_is_written(
    data, says, folders, tmp_path
) -> None:
    with pytest.raises(DataError, match=says):
        tune(data, folders["llama"], tmp_path / "mine", **FAST)
    assert not (tmp_path / "mine").exists()


def test_models_and_rows_of_another_kind_are_refused(first, folders, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"a language model.*got .*bert"):
        tune(rows(), folders["bert"], tmp_path / "mine", **FAST)
    with pytest.raises(ConfigError, match="validation between 0 and 1"):
        tune(rows(), folders["llama"], tmp_path / "mine", validation=1.0, **FAST)
    with pytest.raises(ConfigError, match=r"tuned on rows of text,label; got .*`cpool generate`"):
        first.predict(["a cat"])
    with pytest.raises(ConfigError, match="tuned on rows of text,label"):
        first.predict_proba(["a cat"])
    labels = (["a cat", "a dog", "a bird", "a fish"], ["red", "blue"] * 2)
    with pytest.raises(DataError, match=r"rows of prompt,completion, as this.*got text,label"):
        first.add(labels, "second")
    other = tune((labels[0] * 3, labels[1] * 3), folders["llama"], tmp_path / "other", **FAST)
    with pytest.raises(DataError, match=r"rows of text,label, as this.*got prompt,completion"):
        other.add(rows(), "second")
    assert [task.name for task in Tuned.load(first.folder, device="cpu").record.tasks] == ["first"]


def shell(*words, stdin: str | None = None):
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def test_the_same_from_the_shell(first, folders, tmp_path) -> None:
    data, out = write(tmp_path / "a.csv", rows()), tmp_path / "mine"
    options = ["--epochs", 4, "--device", "cpu", "--lr", 0.1]
    done = shell("tune", "--data", data, "--backbone", folders["llama"], "--out", out, *options)
    assert done.exit_code == 0, done.output
    for words in (
        "20 rows; completions of 2 to 3 tokens, 2.5 on average",
        "learned from 16 rows, measured on 4 held out",
        "no prompt",
        "hard prompt, rows shown",
        "perplexity",
        "cpool generate",
    ):
        assert words in done.output
    # Python is the command.
    made = Tuned.load(out, device="cpu")
    assert torch.equal(pool(made).values(), pool(first).values())
    assert [row["loss"] for row in made.record.compared] == [
        row["loss"] for row in first.record.compared
    ]
    texts = rows(seed=5)["prompt"][:3]
    expected = [words.strip() for words in made.generate(texts)]
    assert shell("generate", out, *texts).output.splitlines() == expected
    assert shell("generate", out, *texts, "--task", "first").output.splitlines() == expected
    assert shell("generate", out, stdin="\n".join(texts)).output.splitlines() == expected
    (tmp_path / "some.txt").write_text("\n".join(texts), encoding="utf-8")
    assert shell("generate", out, "--file", tmp_path / "some.txt").output.splitlines() == expected
    lines = "".join(
        json.dumps({"prompt": p, "completion": c}) + "\n"
        for p, c in zip(*rows(seed=3).values(), strict=True)
    )
    (tmp_path / "b.jsonl").write_text(lines, encoding="utf-8")
    grown = shell("add", out, "--data", tmp_path / "b.jsonl", "--task", "second", "--device", "cpu")
    assert grown.exit_code == 0, grown.output
    assert "second: learned from 16 rows" in grown.output
    assert "not one loss changed" in grown.output
    assert re.search(r"^first +\d\.\d{3} +\d\.\d{3} +(\d\.\d{3}) +\1$", grown.output, re.MULTILINE)
    refused = shell("predict", out, "a cat")
    assert refused.exit_code == 2
    assert "cpool generate" in refused.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt,completion\na cat,now\na dog,\n", "line 3; got '' in column 'completion'"),
        ("prompt,completion\n,now\na dog,now\n", "line 2; got '' in column 'prompt'"),
        ("prompt,answer\na cat,now\n", "got 'prompt', 'answer' in bad.csv"),
        ("text,label,prompt,completion\na,b,c,d\n", "Drop the columns of one kind"),
        ("", "readable row"),
    ],
)
def test_mistakes_in_a_file_have_one_line_and_status_2(text, says, folders, tmp_path) -> None:
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    options = ["--backbone", folders["llama"], "--out", tmp_path / "mine"]
    with warnings.catch_warnings():
        done = shell("tune", "--data", tmp_path / "bad.csv", *options)
    assert done.exit_code == 2
    assert says in done.stderr
    assert not (tmp_path / "mine").exists()


def test_lengths_count_the_tokens_that_are_trained(smollm_path) -> None:
    """After white space a completion has no space of its own, and other tokens."""
    words = AutoTokenizer.from_pretrained(smollm_path)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=words.eos_token_id,
    )
    backbone = wrap_model(LlamaForCausalLM(config), processor=words, name="tiny")
    rows = as_completions(["Where is Dhaka?", "And Oslo?"], ["Bangladesh", "Norway"])
    found = {}
    for template in ("{{ text }}", "{{ text }}\n"):
        method = PromptTuning(template=template, answers="completions", length=2)
        run = Learner(method.build(backbone), device="cpu", quiet=True)
        found[template] = _found(run, [rows])
        batch = run.model.prepare(rows.x, rows.completions)
        counts = (batch["completion"] != -100).sum(dim=1)
        assert found[template]["longest"] == int(counts.max())
        assert found[template]["mean"] == float(counts.float().mean())
    assert found["{{ text }}"]["longest"] < found["{{ text }}\n"]["longest"]


def test_columns_beside_those_of_one_kind_are_not_read(folders, tmp_path) -> None:
    tuned = tune({**rows(8), "label": ["y"] * 8}, folders["llama"], tmp_path / "mine", **FAST)
    assert tuned.record.kind == "completions"


def test_options_of_generate_win_over_the_usual_ones(first) -> None:
    one = first.generate(["a cat"], max_new_tokens=1, eos_token_id=None)[0]
    assert len(one.split()) <= 1
    config = GenerationConfig(max_new_tokens=1, do_sample=False)
    assert first.generate(["a cat"], generation_config=config, eos_token_id=None) == [one]
