"""Methods on language models, against loops over labels and texts."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cpool.errors import CheckpointError, ConfigError, DataError, StateError
from cpool.experiment.trials import run_trial
from cpool.initialisers import from_labels
from cpool.language import LabelWords
from cpool.learner import Learner
from cpool.methods import (
    FewShot,
    FineTuneWords,
    Joint,
    LoRA,
    PrefixTuning,
    PromptTuning,
    ZeroShot,
)
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import LABELS, SHOWN
from tests.common.tasks import stream

TEMPLATE = "my {{ text }} now"
TEXTS = ["the cat sleeps", "a bird flies in the house", "help"]


def words(label: str) -> list[int]:
    """Return the tokens of a label, closed as one label begins another."""
    return [*tiny.backbone("llama").processor.encode(label, add_special_tokens=False), 2]


def scores(text: str, labels: tuple[str, ...], before: Tensor | None = None) -> Tensor:
    """Return log p(label | prompt tokens, text) of the model of transformers, label by label."""
    backbone = tiny.backbone("llama")
    embed = backbone.plain_model.get_input_embeddings()
    found = []
    for label in labels:
        ids = backbone.processor.encode(text, add_special_tokens=False)
        row = embed(torch.tensor([ids + words(label)]))
        start = 0 if before is None else len(before)
        if before is not None:
            row = torch.cat([before[None], row], dim=1)
        states = backbone.plain_model(inputs_embeds=row).last_hidden_state[0]
        table = (states @ backbone.lm_head.weight.T).log_softmax(dim=-1)
        places = range(start + len(ids) - 1, start + len(ids) - 1 + len(words(label)))
        found.append(sum(table[p, w] for p, w in zip(places, words(label), strict=True)))
    return torch.stack(found)


def learner(method, *, seed: int = 0, **options) -> Learner:
    backbone = tiny.backbone("llama")
    with seeded(seed, "build"):
        model = method.build(backbone)
    settings = {"epochs": 1, "batch_size": 6, **options}
    return Learner(model, seed=seed, device="cpu", quiet=True, **settings)


def test_prompt_tuning_is_its_equation_forward_loss_and_gradient() -> None:
    backbone = tiny.backbone("llama")
    method = PromptTuning(length=3, labels=LABELS, template=TEMPLATE, slots="shared")
    model = method.build(backbone)
    model.begin_task([0, 1, 2, 3, 4, 5])
    batch = {**model.prepare(TEXTS), "labels": torch.tensor([2, 5, 0])}
    output = model(batch, task=0)
    (prompt,) = list(model.parameters())
    expected = torch.stack([scores(f"my {t} now", LABELS, prompt[0, 0]) for t in TEXTS])
    torch.testing.assert_close(output.logits, expected, atol=2e-5, rtol=1e-5)
    loss = torch.nn.functional.cross_entropy(expected, torch.tensor([2, 5, 0]))
    torch.testing.assert_close(output.loss, loss, atol=1e-5, rtol=1e-5)
    (got,) = torch.autograd.grad(output.loss, [prompt])
    (wanted,) = torch.autograd.grad(loss, [prompt])
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_a_prompt_that_starts_from_a_text_is_that_hard_prompt() -> None:
    """Untouched, the soft prompt computes exactly what the words in the template compute."""
    for kind in tiny.SPEAKING:
        backbone = tiny.backbone(kind)
        text = "please open the card"
        soft = PromptTuning(
            length=None,
            init="text",
            text=text,
            labels=LABELS,
            template="{{ text }} now",
            slots="shared",
        )
        cache = PrefixTuning(
            length=None, text=text, labels=LABELS, template="{{ text }} now", slots="shared"
        )
        hard = ZeroShot(labels=LABELS, template=text + " {{ text }} now")
        logits = []
        for method in (hard, soft, *([cache] if kind in tiny.DECODERS else [])):
            model = method.build(backbone)
            model.begin_task(range(6))
            for branch in model.prompter or ():
                branch.pool.mark_trained(torch.tensor([[0]]))  # it may be used as it is
            model.eval()
            with torch.no_grad():
                logits.append(model(model.prepare(TEXTS), task=0).logits)
        for soft_logits in logits[1:]:
            torch.testing.assert_close(soft_logits, logits[0], atol=2e-5, rtol=1e-5)


def test_a_task_answers_with_its_own_prompt_and_labels_and_earlier_ones_stay() -> None:
    run = learner(PromptTuning(length=2, labels=LABELS, template=TEMPLATE))
    tasks = stream("llama")
    run.fit_task(tasks[0])
    first = run.model.prompter.branches["prompt"].pool.blocks[0].clone()
    told = [run.predictor.predict(tasks[0].test, 0).probabilities]
    run.fit_task(tasks[1])
    run.fit_task(tasks[2])
    assert torch.equal(run.model.prompter.branches["prompt"].pool.blocks[0], first)
    again = run.predictor.predict(tasks[0].test, 0)
    # Told the task, it forgets nothing; the columns of later classes are 0.
    np.testing.assert_allclose(again.probabilities[:, :2], told[0], atol=1e-6)
    assert not again.probabilities[:, 2:].any()
    answers = run.explain(tasks[1].test.x)
    for label, slot in zip(answers.labels, answers.slots["prompt"][:, 0], strict=True):
        assert label in tasks[int(slot)].classes


def test_a_batch_that_is_routed_to_one_slot_holds_its_prefix_once() -> None:
    """Untold as told, in scores and in words, and what is answered stays the same."""
    run = learner(PrefixTuning(length=3, labels=LABELS, template=TEMPLATE, init="random"))
    tasks = stream("llama")
    run.run(tasks)
    model = run.model.eval()
    texts = [x for x in tasks[0].test.x for _ in range(3)]
    slots = run.explain(texts).slots["prompt"][:, 0]
    texts = [text for text, slot in zip(texts, slots, strict=True) if slot == slots[0]]
    assert len(texts) > 3
    batch = model.prepare(texts)
    with torch.no_grad():
        prompts = model.prompter(model.query(batch))
        assert prompts.selections["prompt"].index.stride(0)  # the router chose row by row
        for pair in prompts.layers.values():
            assert all(tensor.stride(0) == 0 for tensor in pair)
        alone = [model(model.prepare([text])).logits[0] for text in texts]
        torch.testing.assert_close(model(batch).logits, torch.stack(alone), atol=1e-5, rtol=1e-5)
        copied = prompts._replace(
            layers={
                n: tuple(t.clone(memory_format=torch.contiguous_format) for t in pair)
                for n, pair in prompts.layers.items()
            }
        )
        features = [model.passes.run(batch, one)[0] for one in (prompts, copied)]
        assert torch.equal(*features)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    made = model.generate(batch, **options)
    for row, text in enumerate(texts):
        assert made[row].tolist() == model.generate(model.prepare([text]), **options)[0].tolist()


def test_zero_shot_is_the_probability_of_the_label() -> None:
    run = learner(ZeroShot(labels=LABELS, template=TEMPLATE))
    run.run(stream("llama"))
    order = run.classes
    expected = torch.stack([scores(f"my {t} now", tuple(LABELS[c] for c in order)) for t in TEXTS])
    got = run.predict_proba(TEXTS)
    np.testing.assert_allclose(got, expected.softmax(dim=1).detach(), atol=1e-5)
    mean = learner(ZeroShot(labels=LABELS, template=TEMPLATE, normalise="mean"))
    mean.run(stream("llama"))
    lengths = torch.tensor([len(words(LABELS[c])) for c in order])
    shared = (expected / lengths).softmax(dim=1).detach()
    np.testing.assert_allclose(mean.predict_proba(TEXTS), shared, atol=1e-5)


def test_calibration_takes_off_what_a_label_has_after_no_content() -> None:
    run = learner(ZeroShot(labels=LABELS, template=TEMPLATE, calibrate=True))
    run.run(stream("llama"))
    named = tuple(LABELS[c] for c in run.classes)
    free = torch.stack([scores(f"my {t} now", named) for t in ("N/A", "[MASK]", "none")])
    prior = free.exp().mean(dim=0).log()
    expected = torch.stack([scores(f"my {t} now", named) for t in TEXTS]) - prior
    got = run.predict_proba(TEXTS)
    np.testing.assert_allclose(got, expected.softmax(dim=1).detach(), atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: PromptTuning(length=3, **o),
        lambda **o: PrefixTuning(length=2, text="the red house", **o),
    ],
)
def test_a_shared_prompt_is_calibrated_as_it_is_when_a_task_ends(make) -> None:
    """Trained without priors, in the second task too; told or not, at test they are off."""
    options = {"labels": LABELS, "template": TEMPLATE, "slots": "shared", "epochs": 2}
    epochs = options.pop("epochs")
    plain = learner(make(**options), epochs=epochs)
    run = learner(make(**options, calibrate=True), epochs=epochs)
    for task in stream("llama")[:2]:
        plain.fit_task(task)
        run.fit_task(task)
    pools = [one.model.prompter.branches["prompt"].pool.blocks[0] for one in (plain, run)]
    assert torch.equal(*pools)  # the second task was trained without the priors of the first

    def logits(texts: list[str]) -> Tensor:
        with torch.no_grad():
            return plain.model.eval()(plain.model.prepare(texts)).logits

    free = logits(["N/A", "[MASK]", "none"])
    prior = free.exp().mean(dim=0).log()
    with torch.no_grad():
        got = run.model.eval()(run.model.prepare(TEXTS)).logits
        torch.testing.assert_close(got, logits(TEXTS) - prior, atol=2e-5, rtol=1e-5)
        told = run.model(run.model.prepare(TEXTS), task=0).logits
    torch.testing.assert_close(told[:, :2], got[:, :2], atol=1e-5, rtol=1e-5)
    if isinstance(run.model.method, PromptTuning):
        named = tuple(LABELS[c] for c in run.classes)
        own = [scores(f"my {text} now", named, pools[1][0, 0]) for text in ("N/A", TEXTS[0])]
        torch.testing.assert_close(free[0], own[0].detach(), atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(got[0], own[1].detach() - prior, atol=2e-5, rtol=1e-5)


def test_labels_of_a_template_are_those_seen_so_far() -> None:
    run = learner(ZeroShot(labels=LABELS, template="{{ labels | join(' ') }} {{ text }}"))
    tasks = stream("llama")
    run.fit_task(tasks[0])
    for number in range(2):
        if number:
            run.fit_task(tasks[number])
        assert len(run.classes) == 2 * (number + 1)
        assert run.model.passes.around[0] == " ".join(LABELS[c] for c in run.classes) + " "


@pytest.mark.parametrize(("each", "many"), [(2, 1), (1, 2)])
def test_few_shot_shows_training_examples_of_each_class(each, many) -> None:
    shown = "{% for e in examples %}{{ e.text }} = {{ e.label }};{% endfor %}{{ text }}"
    run = learner(FewShot(labels=LABELS, template=shown, each=each))
    tasks = stream("llama")
    for number in range(many):
        run.fit_task(tasks[number])
        before = run.model.passes.around[0]
        pairs = [part.split(" = ") for part in before.split(";")[:-1]]
        assert len(pairs) == 2 * each * (number + 1)
        for task in tasks[: number + 1]:
            for label in task.classes:
                own = [text for text, name in pairs if name == LABELS[label]]
                texts = {x for x, y in zip(task.train.x, task.train.y, strict=True) if y == label}
                assert len(set(own)) == each
                assert set(own) <= texts


def test_few_shot_is_the_same_after_loading(tmp_path) -> None:
    run = learner(FewShot(labels=LABELS, template=SHOWN, each=1))
    run.run(stream("llama"), tmp_path)
    again = Learner.load(tmp_path, tiny.backbone("llama"), device="cpu", quiet=True)
    assert again.model.passes.around == run.model.passes.around
    assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))
    kept = sum(len(e["text"].encode()) for e in run.model.rules[0].examples())
    assert run.model.rules[0].layout()["bytes"] > kept > 0


def test_names_come_from_the_stream_and_stay_with_the_checkpoint(tmp_path) -> None:
    from cpool.streams import class_incremental

    tasks = stream("llama")
    x = [text for task in tasks for text in task.train.x]
    y = np.concatenate([task.train.y for task in tasks])
    named = class_incremental(
        x,
        y,
        x,
        y,
        tasks=3,
        seed=0,
        validation=0,
        name="named",
        class_names=["cat", "red_dog", "red", "blue_bird", "blue_fish", "house"],
    )
    run = learner(ZeroShot(template=TEMPLATE))
    run.run(named, tmp_path)
    assert run.model.head.words.names == LABELS
    again = Learner.load(tmp_path, tiny.backbone("llama"), device="cpu", quiet=True)
    assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))
    trial = run_trial(learner(ZeroShot(template=TEMPLATE)), named)
    assert trial == run.matrix.values[-1].tolist()
    nameless = learner(ZeroShot(template=TEMPLATE))
    with pytest.raises(StateError, match="names of the classes"):
        nameless.fit_task(tasks[0])
    # Nothing was begun, so naming them is all that is missing.
    nameless.model.name_classes(LABELS)
    nameless.fit_task(tasks[0])


def test_label_tokens_start_a_prompt() -> None:
    backbone = tiny.backbone("llama")
    embed = backbone.plain_model.get_input_embeddings().weight
    every = LabelWords(backbone.processor, LABELS)
    every.expect(range(6))
    init = from_labels(backbone, every)
    values = init((1, 1, 8, tiny.WIDTH))
    red, dog = backbone.processor.convert_tokens_to_ids(["red", "dog"])
    torch.testing.assert_close(values[0, 0, 1], (embed[red] + embed[dog]).detach() / 2)
    torch.testing.assert_close(values[0, 0, 2], embed[red].detach())
    words = LabelWords(backbone.processor, LABELS)
    words.expect([3, 1])  # a task of two classes
    own = from_labels(backbone, words)((1, 1, 8, tiny.WIDTH))
    blue, bird = backbone.processor.convert_tokens_to_ids(["blue", "bird"])
    torch.testing.assert_close(own[0, 0, 0], (embed[blue] + embed[bird]).detach() / 2)
    torch.testing.assert_close(own[0, 0, 1], (embed[red] + embed[dog]).detach() / 2)
    rest = values[0, 0, 6:]
    assert all(any(torch.equal(row, token) for token in embed) for row in rest)


@pytest.mark.parametrize("make", [LoRA, FineTuneWords])
def test_tuned_weights_start_from_the_language_model_and_leave_it_alone(make) -> None:
    run = learner(make(labels=LABELS, template=TEMPLATE))
    hard = learner(ZeroShot(labels=LABELS, template=TEMPLATE))
    for one in (run, hard):
        one.model.begin_task(range(6))
        one.model.eval()
    batch = run.model.prepare(TEXTS)
    with torch.no_grad():
        wanted = hard.model(batch).logits
        torch.testing.assert_close(run.model(batch).logits, wanted, atol=1e-6, rtol=1e-6)
    run.model.train()
    run.model({**batch, "labels": torch.tensor([0, 3, 5])}, task=0).loss.backward()
    moved = [p for p in run.model.parameters() if p.grad is not None and p.grad.any()]
    assert moved
    torch.optim.SGD(moved, 0.5).step()
    run.model.eval()
    with torch.no_grad():
        assert not torch.allclose(run.model(batch).logits, wanted, atol=1e-3)
        assert torch.equal(hard.model(batch).logits, wanted)


def test_lora_of_a_t5_updates_both_halves_and_what_they_answer() -> None:
    model = LoRA(labels=LABELS, template=TEMPLATE, rank=2).build(tiny.backbone("t5"))
    model.begin_task(range(6))
    names = {name for name, _ in model.named_parameters()}
    for half, layers in (("model", tiny.DEPTH), ("decoder", 2)):
        own = {n for n in names if n.startswith(f"trunk.{half}.") and "lora_" in n}
        attentions = layers if half == "model" else 2 * layers  # the decoder's: to itself, across
        assert len(own) == attentions * 2 * 2  # of queries and values, A and B
        names -= own
    assert not names
    batch = {**model.prepare(TEXTS), "labels": torch.tensor([0, 3, 5])}
    before = model(batch, task=0)
    before.loss.backward()
    assert all(p.grad.any() for n, p in model.named_parameters() if "lora_B" in n)
    torch.optim.SGD(model.parameters(), 0.5).step()
    assert not torch.allclose(model(batch, task=0).logits, before.logits, atol=1e-3)


def test_lora_stores_its_own_weights_alone(tmp_path) -> None:
    run = learner(LoRA(labels=LABELS, rank=2, targets=("q_proj", "v_proj")))
    run.run(stream("llama"), tmp_path)
    width, kv = tiny.WIDTH, tiny.WIDTH // 2  # two of four heads hold keys and values
    own = tiny.DEPTH * 2 * ((width + width) + (width + kv))
    assert sum(p.numel() for p in run.model.parameters()) == own
    stored = [name for name in run.model.state_dict() if name.startswith("trunk.")]
    assert len(stored) == tiny.DEPTH * 2 * 2
    assert all("lora_" in name for name in stored)
    again = Learner.load(tmp_path, tiny.backbone("llama"), device="cpu", quiet=True)
    assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))


def test_seen_classes_compete_where_a_task_has_one_class() -> None:
    model = PromptTuning(length=2, labels=LABELS, template=TEMPLATE).build(tiny.backbone("llama"))
    model.mask = "seen"
    for label in range(2):
        model.begin_task([label])
    batch = {**model.prepare(TEXTS), "labels": torch.tensor([1, 1, 1])}
    assert model(batch, task=1).losses["cross_entropy"].item() > 1e-3


def test_a_checkpoint_knows_the_output_embedding(tmp_path) -> None:
    run = learner(ZeroShot(labels=LABELS, template=TEMPLATE))
    run.run(stream("llama"), tmp_path)
    other = tiny.new("llama")
    with torch.no_grad():
        other.lm_head.weight.add_(0.1)
    with pytest.raises(CheckpointError, match="what words come from"):
        Learner.load(tmp_path, other, device="cpu", quiet=True)


def test_a_checkpoint_knows_the_decoder_of_a_t5(tmp_path) -> None:
    model = ZeroShot(labels=LABELS, template=TEMPLATE).build(tiny.backbone("t5"))
    run = Learner(model, seed=0, device="cpu", quiet=True)
    run.run(stream("t5"), tmp_path)
    again = Learner.load(tmp_path, tiny.new("t5"), device="cpu", quiet=True)
    assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))
    other = tiny.new("t5")
    with torch.no_grad():
        other.decoder.final_layer_norm.weight.add_(0.1)
    with pytest.raises(CheckpointError, match="what words come from"):
        Learner.load(tmp_path, other, device="cpu", quiet=True)


def test_a_task_free_learner_refuses_what_needs_raw_texts() -> None:
    from cpool.drift import DriftDetector
    from cpool.task_free import TaskFreeLearner

    run = learner(FewShot(labels=LABELS, template=SHOWN))
    with pytest.raises(ConfigError, match="rules need all data"):
        TaskFreeLearner(run, DriftDetector())


def test_joint_training_of_a_prompt() -> None:
    options = {"length": 2, "labels": LABELS, "slots": "shared", "template": TEMPLATE}
    run = learner(Joint(of="prompt_tuning", options=options))
    matrix = run.run(stream("llama"))
    assert not math.isnan(matrix.summary()["average_accuracy"])
    assert sorted(run.classes) == list(range(6))
    pool = run.model.prompter.branches["prompt"].pool
    assert int(pool.trained_steps[0]) == 6  # 36 rows in batches of 6, of all classes at once


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PromptTuning(template="no place"), "a Jinja template"),
        (lambda: PromptTuning(length=0), "length at least 1"),
        (lambda: PromptTuning(length=None), 'None with init "text"'),
        (lambda: PromptTuning(init="text", text=" "), "text with words"),
        (lambda: PrefixTuning(length=None, init="random"), 'None with init "text"'),
        (lambda: LoRA(rank=0), "rank at least 1"),
        (lambda: LoRA(dropout=1.0), "dropout from 0, below 1"),
        (lambda: PrefixTuning(std=0.0), "std above 0"),
        (lambda: PromptTuning(calibrate=True), 'calibrate false with slots="task"'),
        (lambda: PrefixTuning(calibrate=True), "a prompt scores no labels of other tasks"),
        (
            lambda: PromptTuning(calibrate=True, slots="shared", answers="completions"),
            'false with answers="completions"',
        ),
        (lambda: ZeroShot(labels=("a", "a")), "a name of its own"),
        (lambda: ZeroShot(labels=("a", " ")), "a name of its own"),
        (lambda: FewShot(template="{{ text }}"), "a loop over examples"),
        (lambda: FewShot(each=0), "each at least 1"),
    ],
)
def test_wrong_settings_are_refused(make, says) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_a_class_without_a_name_is_refused() -> None:
    run = learner(ZeroShot(labels=LABELS[:3], template=TEMPLATE))
    with pytest.raises(DataError, match="that have names"):
        run.run(stream("llama"))
