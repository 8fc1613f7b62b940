"""A model of one's own texts: tuned, loaded, asked, grown; and the same from the shell."""

import csv
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cpool.cli.app import app
from cpool.errors import BackboneError, CheckpointError, ConfigError, CpoolError, DataError
from cpool.tuning import Tuned, tune
from tests import tiny

LABELS = {"lost_card": "lost", "openAccount": "open"}
LATER = {"bird": "bird", "house": "house", "lost_card": "lost"}


def rows(labels: dict[str, str], each: int = 15, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    made = []
    for label, word in labels.items():
        for _ in range(each):
            words = [*rng.choice(tiny.WORDS, 4), word]
            made.append((" ".join(words), label))
    return [text for text, _ in made], [label for _, label in made]


def write(path, labels: dict[str, str], seed: int = 0):
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        table.writerows(zip(*rows(labels, seed=seed), strict=True))
    return path


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    tiny.language_model("llama").save_pretrained(folder)
    tiny.tokenizer(special=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder_decoder")
    tiny.language_model("t5").save_pretrained(folder)
    tiny.tokenizer(start=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    tiny.model("bert").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


FAST = {"epochs": 2, "device": "cpu", "quiet": True}


def test_a_prompt_is_tuned_beside_hard_prompts_and_a_baseline(decoder, tmp_path) -> None:
    tuned = tune(rows(LABELS), decoder, tmp_path / "mine", **FAST)
    found = {row["row"]: row for row in tuned.record.compared}
    assert list(found) == ["hard prompt", "hard prompt, labels listed", "ncm", "prompt_tuning"]
    assert found["hard prompt"]["trained_parameters"] == 0
    (slot,) = tuned.learner.model.prompter.branches["prompt"].pool.slots
    length = tuned.learner.model.prompter.branches["prompt"].pool.length
    assert found["prompt_tuning"]["trained_parameters"] == length * tiny.WIDTH
    assert slot.trained_steps > 0
    lines = (tmp_path / "mine" / "held-out.jsonl").read_text(encoding="utf-8").splitlines()
    held = [json.loads(line) for line in lines]
    assert len(held) == 6
    assert (tuned.record.tasks[0].rows, tuned.record.tasks[0].held_out) == (24, 6)
    # What was said of the held-out rows is what the model answers there.
    answers = tuned.predict([row["text"] for row in held])
    numbers = [tuned.record.labels.index(answer) for answer in answers]
    right = np.mean(np.array(numbers) == [row["label"] for row in held])
    assert right == pytest.approx(found["prompt_tuning"]["accuracy"])
    texts, _ = rows(LABELS)
    assert not {row["text"] for row in held} - set(texts)


def test_a_t5_is_tuned_and_answers_in_words(encoder_decoder, tmp_path) -> None:
    tuned = tune(rows(LABELS), encoder_decoder, tmp_path / "mine", **FAST)
    found = [row["row"] for row in tuned.record.compared]
    assert found == ["hard prompt", "hard prompt, labels listed", "ncm", "prompt_tuning"]
    again, (texts, _) = Tuned.load(tmp_path / "mine", device="cpu"), rows(LABELS, seed=1)
    assert np.array_equal(again.predict_proba(texts), tuned.predict_proba(texts))
    assert len(again.generate(texts[:2], max_new_tokens=3, do_sample=False)) == 2


def test_a_loaded_model_is_the_same(decoder, tmp_path) -> None:
    tuned = tune(rows(LABELS), decoder, tmp_path / "mine", **FAST)
    again = Tuned.load(tmp_path / "mine", device="cpu")
    texts, _ = rows(LABELS, seed=1)
    assert again.labels == tuned.labels == ["lost_card", "openAccount"]
    assert np.array_equal(again.predict_proba(texts), tuned.predict_proba(texts))
    assert again.record == tuned.record
    said = again.generate(texts[:2], max_new_tokens=3, do_sample=False)
    assert said == tuned.generate(texts[:2], max_new_tokens=3, do_sample=False)


def test_rows_may_hold_line_separators(decoder, tmp_path) -> None:
    texts, labels = rows(LABELS)
    odd = [text + "\u2028lost\x85open" for text in texts]
    tuned = tune((odd, labels), decoder, tmp_path / "mine", **FAST)
    assert tuned.add(rows(LATER, seed=2), "second").changed == 0


def test_a_task_is_added_and_the_older_one_does_not_move(decoder, tmp_path) -> None:
    tune(rows(LABELS), decoder, tmp_path / "mine", **FAST)
    tuned = Tuned.load(tmp_path / "mine", device="cpu")
    first = tuned.learner.model.prompter.branches["prompt"].pool.blocks[0].clone()
    added = tuned.add(rows(LATER, seed=2), "second")
    assert added.changed == 0
    assert added.told_before == added.told_after
    assert set(added.before) == {"first"}
    assert 0 <= added.accuracy <= 1
    again = Tuned.load(tmp_path / "mine", device="cpu")
    assert torch.equal(again.learner.model.prompter.branches["prompt"].pool.blocks[0], first)
    assert set(again.labels) == {"lost_card", "openAccount", "bird", "house"}
    assert [task.name for task in again.record.tasks] == ["first", "second"]
    # A label of the first task keeps its number; told the task, only its labels are answered.
    assert again.record.tasks[1].classes == [2, 3, 0]
    texts, _ = rows(LATER, seed=3)
    assert set(again.predict(texts, "second")) <= set(LATER)
    assert set(again.predict(texts, "first")) <= set(LABELS)
    with pytest.raises(DataError, match="a new name"):
        again.add(rows(LATER), "second")
    with pytest.raises(DataError, match="one of the tasks first, second"):
        again.predict(texts, "third")


@pytest.mark.parametrize("where", ["labels", "training", "record", "model"])
def test_a_task_that_fails_changes_nothing(where, decoder, tmp_path, monkeypatch) -> None:
    tune(rows(LABELS), decoder, tmp_path / "mine", **FAST)
    tuned = Tuned.load(tmp_path / "mine", device="cpu")
    whole = Tuned.load(tmp_path / "mine", device="cpu")
    texts, _ = rows(LABELS, seed=1)
    before = tuned.predict_proba(texts)
    with monkeypatch.context() as patch:
        data = rows(LATER, seed=2)
        if where == "labels":  # of unknown words: the tokenizer does not tell them apart
            data = rows({"xyz": "bird", "zyx": "house", "bird": "bird"}, seed=2)
        elif where == "training":

            def stop(*_: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(type(tuned.learner.model), "end_task", stop)
        else:

            def full(*_: object) -> None:
                raise CheckpointError(expected="room", got="a full disk", remedy="Clear it.")

            places = {"record": "tuning.store.write_json", "model": "learner.save_state"}
            patch.setattr(f"cpool.{places[where]}", full)
        with pytest.raises((DataError, KeyboardInterrupt, CheckpointError)):
            tuned.add(data, "second")
    again = Tuned.load(tmp_path / "mine", device="cpu")
    for one in (tuned, again):
        assert one.record == whole.record
        assert one.record.labels == ["lost_card", "openAccount"]
        assert one.learner.model.head.words.names == ("lost card", "open account")
        assert np.array_equal(one.predict_proba(texts), before)
    # What is learned next is what it would be without the failure.
    added, wanted = (one.add(rows(LATER, seed=3), "second") for one in (tuned, whole))
    assert added == wanted
    assert tuned.record == whole.record
    later, _ = rows(LATER, seed=4)
    assert np.array_equal(tuned.predict_proba(later), whole.predict_proba(later))


def test_a_task_of_completions_that_fails_changes_nothing(decoder, tmp_path, monkeypatch) -> None:
    pairs = {"prompt": [f"the {word}" for word in tiny.WORDS[:10]], "completion": ["cat"] * 10}
    tuned = tune(pairs, decoder, tmp_path / "mine", **FAST)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(tuned.learner.model), "end_task", stop)
        with pytest.raises(KeyboardInterrupt):
            tuned.add(pairs, "second")
    assert [task.name for task in tuned.record.tasks] == ["first"]
    assert tuned.learner.done == ["first"]
    tuned.add(pairs, "second")


def test_an_encoder_gets_prompt_ridge(encoder, tmp_path) -> None:
    options = {**FAST, "epochs": 1}
    tuned = tune(rows(LABELS), encoder, tmp_path / "mine", **options)
    assert [row["row"] for row in tuned.record.compared] == ["ncm", "prompt_ridge"]
    added = tuned.add(rows({"bird": "bird", "house": "house"}), "second")
    again = Tuned.load(tmp_path / "mine", device="cpu")
    texts, _ = rows(LABELS, seed=1)
    assert again.predict(texts) == tuned.predict(texts)
    assert added.task == "second"
    with pytest.raises(BackboneError, match="language model"):
        again.generate(texts[:1])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"backbone": "embedded"}, ConfigError, "reads texts"),
        ({"data": (["a"] * 4, ["x"] * 4)}, CpoolError, "label|class"),
        ({"template": "no place"}, ConfigError, "a Jinja template"),
        ({"epochs": 0}, ConfigError, "epochs"),
        ({"validation": 0.0}, ConfigError, "validation between 0 and 1, both excluded; got 0.0"),
        ({"data": rows({"lost_card": "lost"})}, DataError, "at least two labels.*got 'lost_card'"),
        (
            {"data": rows({"red_dog": "red", "red dog": "dog"})},
            DataError,
            "got 'red dog' and 'red_dog', which are both read as 'red dog'",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused_and_nothing_is_written(
    change, error, says, decoder, tmp_path
) -> None:
    given = {"data": rows(LABELS), "backbone": decoder, **FAST, **change}
    with pytest.raises(error, match=says):
        tune(given.pop("data"), given.pop("backbone"), tmp_path / "mine", **given)
    assert not (tmp_path / "mine").exists()


def test_a_task_names_what_its_labels_lack_as_the_data_have_them(decoder, tmp_path) -> None:
    tune(rows(LABELS), decoder, tmp_path / "mine", **FAST)
    tuned = Tuned.load(tmp_path / "mine", device="cpu")
    for data in (rows({"bird": "bird"}), write(tmp_path / "bird.csv", {"bird": "bird"})):
        with pytest.raises(DataError, match=r"at least two labels.*'bird' alone.*a known one"):
            tuned.add(data, "second")
    with pytest.raises(DataError, match="got 'lost_card' and 'lost card', which are both read"):
        tuned.add(rows({"lost card": "lost", "house": "house"}), "second")
    tuned.add(rows({"bird": "bird", "lost_card": "lost"}), "second")


def test_a_folder_is_never_overwritten_and_must_hold_a_model(decoder, tmp_path) -> None:
    tune(rows(LABELS), decoder, tmp_path / "mine", **FAST)
    with pytest.raises(ConfigError, match="holds a tuned model"):
        tune(rows(LABELS), decoder, tmp_path / "mine", **FAST)
    with pytest.raises(CheckpointError, match="that `cpool tune` wrote"):
        Tuned.load(tmp_path)


def shell(*words, stdin: str | None = None):
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def test_the_same_from_the_shell(decoder, tmp_path) -> None:
    data, more = write(tmp_path / "a.csv", LABELS), write(tmp_path / "b.csv", LATER, seed=4)
    out = tmp_path / "mine"
    options = ["--epochs", 2, "--device", "cpu", "--lr", 0.02]
    done = shell("tune", "--data", data, "--backbone", decoder, "--out", out, *options)
    assert done.exit_code == 0, done.output
    for words in ("2 labels (lost_card, openAccount)", "24 rows", "6 held out", "hard prompt"):
        assert words in done.output
    # Python is the command.
    same = tune(data, decoder, tmp_path / "same", epochs=2, device="cpu", lr=0.02)
    ours, theirs = same.learner.model.state_dict(), Tuned.load(out, device="cpu")
    assert ours.keys() == theirs.learner.model.state_dict().keys()
    assert all(torch.equal(v, ours[k]) for k, v in theirs.learner.model.state_dict().items())
    assert [row["accuracy"] for row in same.record.compared] == [
        row["accuracy"] for row in theirs.record.compared
    ]
    texts, _ = rows(LABELS, seed=5)
    expected = theirs.predict(texts[:3])
    assert shell("predict", out, *texts[:3]).output.splitlines() == expected
    piped = shell("predict", out, stdin="\n".join(texts[:3]) + "\n\n")
    assert piped.output.splitlines() == expected
    assert shell("predict", out, "-", stdin="\n".join(texts[:3])).output == piped.output
    odd = "one\u2028text\x85with breaks"  # of other alphabets: still one line
    assert len(shell("predict", out, stdin=odd).output.splitlines()) == 1
    (tmp_path / "some.txt").write_text("\n".join(texts[:3]), encoding="utf-8")
    assert shell("predict", out, "--file", tmp_path / "some.txt").output == piped.output
    grown = shell("add", out, "--data", more, "--task", "second", "--device", "cpu")
    assert grown.exit_code == 0, grown.output
    assert "not one answer changed" in grown.output
    words = shell("generate", out, texts[0], "--tokens", 3)
    assert words.exit_code == 0, words.output


def test_a_template_comes_from_a_file_behind_an_at(decoder, tmp_path) -> None:
    data, path = write(tmp_path / "a.csv", LABELS), tmp_path / "intent.jinja"
    path.write_text("my {{ text }} now\n", encoding="utf-8")
    common = ["tune", "--data", data, "--backbone", decoder, "--epochs", 1, "--device", "cpu"]
    done = shell(*common, "--out", tmp_path / "mine", "--template", f"@{path}")
    assert done.exit_code == 0, done.output
    tuned = Tuned.load(tmp_path / "mine", device="cpu")
    assert tuned.learner.model.method.template == "my {{ text }} now"
    manifest = (tmp_path / "mine" / "model" / "manifest.json").read_text(encoding="utf-8")
    assert "intent.jinja" not in manifest
    done = shell(*common, "--out", tmp_path / "other", "--template", "@{{ text }} now")
    assert done.exit_code == 0, done.output  # words that begin so are words
    done = shell(*common, "--out", tmp_path / "third", "--template", f"@{tmp_path}/gone.jinja")
    assert done.exit_code == 2
    assert "gone.jinja: No such file" in done.stderr
    same = tune(rows(LABELS), decoder, tmp_path / "fourth", template=path, **FAST)
    assert same.learner.model.method.template == "my {{ text }} now"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "{out}"], "a text as argument"),
        (["predict", "{out}", "--file", "{out}/none.txt"], "none.txt"),
        (["predict", "{out}", "x", "--file", "{out}/none.txt"], "or --file; got both"),
        (["predict", "{out}/model", "x"], "tuned.json"),
        (["generate", "{out}", "x", "--tokens", "0"], "--tokens of at least 1; got 0"),
        (["add", "{out}", "--data", "{out}/none.csv", "--task", "x"], "none.csv"),
        (
            ["add", "{out}", "--data", "{out}/../one.csv", "--task", "x", "--validation", "0"],
            "validation between 0 and 1",
        ),
        (["add", "{out}", "--data", "{out}/../one.csv", "--task", "x"], "'bird' alone in one.csv"),
    ],
)
def test_mistakes_of_the_shell_have_one_line_and_status_2(words, says, decoder, tmp_path) -> None:
    out = tmp_path / "mine"
    tune(rows(LABELS), decoder, out, **FAST)
    write(tmp_path / "one.csv", {"bird": "bird"})
    done = shell(*(word.format(out=out) for word in words), stdin="")
    assert done.exit_code == 2
    assert says in done.stderr
    assert "Traceback" not in done.output
