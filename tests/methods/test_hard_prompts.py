"""Bars for learned prompts: examples near a text, and a search over templates.

All against loops over texts and labels, and models that transformers runs.
"""

import math

import numpy as np
import pytest
import torch

from cpool.errors import CheckpointError, ConfigError
from cpool.language import Template
from cpool.learner import Learner
from cpool.methods import FewShot, Joint, PromptSearch, ZeroShot
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import LABELS, SHOWN
from tests.common.tasks import stream

TEXTS = ["the cat sleeps", "a bird flies in the house", "help", "red fish on the card"]
SOLVED = "{% for e in examples %}{{ e.text }} = {{ e.label }};{% endfor %}{{ text }}"


def learner(method, *, seed: int = 0) -> Learner:
    with seeded(seed, "build"):
        model = method.build(tiny.backbone("llama"))
    return Learner(model, seed=seed, device="cpu", quiet=True, batch_size=6)


def feature(text: str) -> np.ndarray:
    """Return the mean of the last states of a text, run by transformers alone."""
    backbone = tiny.backbone("llama")
    ids = torch.tensor([backbone.processor.encode(text, add_special_tokens=False)])
    with torch.no_grad():
        return backbone.plain_model(input_ids=ids).last_hidden_state[0].double().mean(0).numpy()


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize("each", [1, 2])
def test_nearest_examples_are_those_of_a_loop(each) -> None:
    run = learner(FewShot(labels=LABELS, template=SOLVED, each=each, pick="nearest"))
    tasks = stream("llama")
    kept: list[tuple[str, int]] = []
    shown = set()
    for task in tasks[:2]:
        run.fit_task(task)
        kept += zip(task.train.x, task.train.y.tolist(), strict=True)
        known = [feature(text) for text, _ in kept]
        for text, (before, after) in zip(TEXTS, run.model.passes.around(TEXTS), strict=True):
            near = [cosine(feature(text), row) for row in known]
            chosen = []
            for label in {label for _, label in kept}:
                own = [i for i, (_, c) in enumerate(kept) if c == label]
                chosen += sorted(own, key=lambda i: near[i])[-each:]
            chosen.sort(key=lambda i: near[i])
            wanted = "".join(f"{kept[i][0]} = {LABELS[kept[i][1]]};" for i in chosen)
            assert (before, after) == (wanted, "")
            shown.add(wanted)
    assert len(shown) > 4  # texts of one batch do get examples of their own


def test_a_text_is_shown_the_same_alone_and_in_any_batch() -> None:
    run = learner(FewShot(labels=LABELS, template=SHOWN, pick="nearest"))
    run.run(stream("llama"))
    around = run.model.passes.around
    texts = [*stream("llama")[0].test.x, *TEXTS]
    pairs = around(texts)
    assert [around([text])[0] for text in texts] == list(pairs)
    together = run.predict_proba(texts)
    for i in (0, 3, len(texts) - 1):
        np.testing.assert_allclose(run.predict_proba([texts[i]])[0], together[i], atol=1e-5)
    batch = run.model.prepare(texts)
    rows = [
        run.model.backbone.processor.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert rows == [f"{before}{x}{after}" for x, (before, after) in zip(texts, pairs, strict=True)]


def test_the_memory_is_in_the_checkpoint_and_counts(tmp_path) -> None:
    run = learner(FewShot(labels=LABELS, template=SHOWN, pick="nearest"))
    run.run(stream("llama"), tmp_path)
    again = Learner.load(tmp_path, tiny.backbone("llama"), device="cpu", quiet=True)
    assert again.model.passes.around(TEXTS) == run.model.passes.around(TEXTS)
    assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))
    texts = [text for task in stream("llama") for text in task.train.x]
    state = run.model.rules[0].state_dict()
    assert state["features"].shape == (len(texts), tiny.WIDTH)
    assert len(state["memory"]) > sum(len(text.encode()) for text in texts)


def test_kept_features_depend_on_the_memory() -> None:
    """Of two models that differ in their memory alone, none may read features of the other."""
    methods = [FewShot(labels=LABELS, template=SHOWN, pick="nearest", each=k) for k in (1, 1, 2)]
    runs = [learner(method, seed=0) for method in methods]
    task = stream("llama")[0]
    runs[0].fit_task(task)
    runs[1].fit_task((task.train.x[1:], task.train.y[1:]))
    runs[2].fit_task(task)
    keys = [run.model.passes.key("features", None) for run in runs]
    assert len(set(keys)) == 3
    first = runs[0].model.passes.key("features", None)
    assert first == keys[0]  # and it stays while the memory does
    runs[0].evaluate([task])
    cached = runs[0].predict_proba(task.test.x)
    np.testing.assert_allclose(
        runs[0].predictor.predict(task.test, cached=False).probabilities, cached, atol=1e-6
    )


CANDIDATES = ("my {{ text }} now", "{{ text }} please", "{{ labels | join(' ') }} {{ text }}")
FIRST = "{{ text }}"


def chances(before: str, text: str, after: str, classes: list[int]) -> dict[int, float]:
    """Return log p(class | words around a text) among some classes, a pass of the model each."""
    found = raw(before, text, after, classes)
    total = math.log(sum(math.exp(score) for score in found.values()))
    return {label: score - total for label, score in found.items()}


def raw(before: str, text: str, after: str, classes: list[int]) -> dict[int, float]:
    """Return log p(label | words around a text), not compared with other labels."""
    backbone = tiny.backbone("llama")
    ids = backbone.processor.encode(f"{before}{text}{after}", add_special_tokens=False)
    found = {}
    for label in classes:
        words = [*backbone.processor.encode(LABELS[label], add_special_tokens=False), 2]
        with torch.no_grad():
            logits = backbone.language_model(torch.tensor([ids + words])).logits[0].double()
        table = logits.log_softmax(dim=-1)
        found[label] = sum(float(table[len(ids) - 1 + i, w]) for i, w in enumerate(words))
    return found


def calibrated(before: str, text: str, after: str, classes: list[int]) -> dict[int, float]:
    """Return the chances without what each label has after no content."""
    blank = [raw(before, one, after, classes) for one in ("N/A", "[MASK]", "none")]
    found = raw(before, text, after, classes)
    for label in classes:
        found[label] -= math.log(sum(math.exp(one[label]) for one in blank) / len(blank))
    total = math.log(sum(math.exp(score) for score in found.values()))
    return {label: score - total for label, score in found.items()}


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("score", ["loss", "accuracy"])
def test_templates_are_chosen_by_sums_over_the_rows_of_all_tasks(score, calibrate) -> None:
    """Calibrated scores are compared, each template's with its own priors, as they are used."""
    options = {"labels": LABELS, "template": FIRST, "score": score, "calibrate": calibrate}
    chance = calibrated if calibrate else chances
    run = learner(PromptSearch(candidates=CANDIDATES, **options))
    other = learner(PromptSearch(candidates=CANDIDATES[::-1], **options))
    wanted = dict.fromkeys((FIRST, *CANDIDATES), 0.0)
    seen: list[int] = []
    for number, task in enumerate(stream("llama")[:2]):
        run.fit_task(task)
        other.fit_task(task)
        seen += [label for label in run.classes if label not in seen]
        for source in wanted:
            before, after = Template(source).around([LABELS[c] for c in seen])
            for text, label in zip(task.train.x, task.train.y.tolist(), strict=True):
                found = chance(before, text, after, list(task.classes))
                right = float(max(found, key=found.__getitem__) == label)
                wanted[source] += found[label] if score == "loss" else right
        layout = run.model.layout()["rules"][0]
        assert layout["scores"] == pytest.approx(wanted, abs=1e-3)
        assert layout["rows"] == 12 * (number + 1)
        best = max(wanted, key=wanted.__getitem__)  # the first of equal ones
        assert layout["template"] == best
        filled = Template(best).around([LABELS[c] for c in run.classes])
        assert run.model.passes.around == filled
        # Scores say which one is taken, not its place among the candidates.
        if score == "loss":
            assert other.model.layout()["rules"][0]["template"] == best
    assert len(set(wanted.values())) > 1
    for text, row in zip(TEXTS, run.predict_proba(TEXTS), strict=True):
        found = chance(filled[0], text, filled[1], run.classes)
        np.testing.assert_allclose(np.log(row), [found[c] for c in run.classes], atol=1e-4)


def test_only_some_rows_are_scored_and_the_seed_says_which() -> None:
    scores, options = [], {"labels": LABELS, "candidates": CANDIDATES}
    for seed in (0, 0, 1):
        run = learner(PromptSearch(score="loss", rows=3, **options), seed=seed)
        run.fit_task(stream("llama")[0])
        layout = run.model.layout()["rules"][0]
        assert layout["rows"] == 3
        scores.append(layout["scores"])
    assert scores[0] == scores[1] != scores[2]


def test_a_choice_is_loaded_with_its_scores(tmp_path) -> None:
    run = learner(PromptSearch(labels=LABELS, candidates=CANDIDATES))
    run.run(stream("llama"), tmp_path)
    again = Learner.load(tmp_path, tiny.backbone("llama"), device="cpu", quiet=True)
    assert again.model.layout()["rules"] == run.model.layout()["rules"]
    assert again.model.passes.around == run.model.passes.around
    assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))
    with pytest.raises(CheckpointError):
        learner(PromptSearch(labels=LABELS, candidates=CANDIDATES[:1])).resume(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"candidates": ("no place",)}, "a Jinja template"),
        ({"candidates": ()}, "candidates with at least one template"),
        ({"rows": 0}, "rows at least 1"),
    ],
)
def test_a_search_over_nothing_is_refused(options, says) -> None:
    with pytest.raises(ConfigError, match=says):
        PromptSearch(**options)


def test_a_template_may_be_a_file_and_its_words_are_what_is_recorded(tmp_path) -> None:
    path = tmp_path / "prompt.jinja"
    path.write_text("my {{ text }} now\n", encoding="utf-8")
    words = "my {{ text }} now"
    for given in (path, Template(words), words):
        assert ZeroShot(template=given) == ZeroShot(template=words)
        found = PromptSearch(template=given, candidates=(given, "{{ text }} dog"))
        assert found.hyper_parameters()["candidates"] == (words, "{{ text }} dog")
        joint = Joint(of="prompt_search", options={"template": given, "candidates": [given]})
        assert joint.options == {"template": words, "candidates": [words]}
    run = learner(ZeroShot(labels=LABELS, template=path))
    run.run(stream("llama"), tmp_path / "run")
    path.unlink()
    manifest = (tmp_path / "run" / "manifest.json").read_text(encoding="utf-8")
    assert words in manifest and "prompt.jinja" not in manifest
    again = Learner.load(tmp_path / "run", tiny.backbone("llama"), device="cpu", quiet=True)
    assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))
    for make in (
        lambda: ZeroShot(template=path),
        lambda: PromptSearch(candidates=(path,)),
        lambda: Joint(of="zero_shot", options={"template": path}),
    ):
        with pytest.raises(ConfigError, match=r"a template file.*prompt\.jinja: No such file"):
            make()


def test_the_default_candidates_differ_and_some_list_the_labels() -> None:
    method = PromptSearch()
    sources = {method.template, *method.candidates}
    assert len(sources) == 8
    assert 2 <= sum("labels" in source for source in sources) < 8


def test_a_template_that_fails_leaves_all_scores_as_they_were(monkeypatch) -> None:
    templates = ("my {{ text }} now", "the {{ text }} dog")
    method = PromptSearch(labels=LABELS, candidates=templates, calibrate=True)
    with seeded(0, "build"):
        model = method.build(tiny.backbone("llama"))
    model.begin_task([0, 1])
    rule = model.rules[0]
    model.study(["the cat", "a bird"], np.array([0, 1]))
    model.end_task()
    prior = model.head.prior.clone()
    model.begin_task([0, 1])
    before, best = list(rule.scores), rule.best
    whole = rule._score

    def failing(*args):
        if rule.surround.template.source.startswith("the"):
            raise RuntimeError("no room")
        return whole(*args)

    monkeypatch.setattr(rule, "_score", failing)
    model.train()
    with pytest.raises(RuntimeError, match="no room"):
        model.study(["my card", "a fish"], np.array([0, 1]))
    assert rule.scores == before and rule.seen == 2
    assert rule.surround.template is best and model.training
    assert prior.any() and torch.equal(model.head.prior, prior)
