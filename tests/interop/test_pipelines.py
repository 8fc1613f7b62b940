"""Pipelines, save, load and push: the files hold what is learned, and the answers stay the same."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    pipeline,
)

from cpool.backbones import load_backbone
from cpool.errors import BackboneError, CheckpointError, ConfigError
from cpool.interop.transformers import (
    CpoolConfig,
    CpoolForCausalLM,
    CpoolForImageClassification,
    CpoolForSequenceClassification,
)
from cpool.learner import Learner
from cpool.methods import L2P, NCM, FineTuneWords, PromptRidge, PromptTuning, ZeroShot
from cpool.model import PromptedModel
from tests import tiny
from tests.interop.trained import LABELS, TASKS, same, stacked

CLASSES = [CpoolForSequenceClassification, CpoolForImageClassification, CpoolForCausalLM]
AUTO = [
    AutoModelForSequenceClassification,
    AutoModelForImageClassification,
    AutoModelForCausalLM,
]


def learner_of(kind: str, method, backbone=None) -> Learner:
    """Return a learner that has seen both tasks."""
    torch.manual_seed(0)
    made = method.build(backbone or tiny.backbone(kind))
    learner = Learner(made, quiet=True, device="cpu", epochs=2, lr=0.05, batch_size=4)
    for task, classes in enumerate(TASKS):
        x = tiny.raw(kind, 12, seed=task)
        learner.model.name_classes(LABELS)
        learner.fit_task((x, torch.tensor([*classes] * 6).numpy()))
    return learner


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """Folders of frozen models, as `save_pretrained` of transformers writes them."""
    folders = {}
    for kind in ("bert", "llama", "vit"):
        folders[kind] = tmp_path_factory.mktemp(kind)
        made = tiny.language_model(kind) if kind == "llama" else tiny.model(kind)
        made.save_pretrained(folders[kind])
        tiny.backbone(kind).processor.save_pretrained(folders[kind])
    return folders


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("bert", L2P(pool_size=4, top_k=2, length=2)),
        ("bert", PromptRidge(projection=40, length=2)),
        ("llama", PromptTuning(length=2, template="please {{ text }} now")),
        ("llama", ZeroShot(template="{{ text }} now")),
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("size", [1, 3])
def test_a_pipeline_answers_as_the_learner(kind, method, size, caplog) -> None:
    learner = learner_of(kind, method)
    model = CpoolForSequenceClassification.of(learner.model, LABELS)
    texts = tiny.raw(kind, 7, seed=5)
    expected = learner.explain(texts)
    with caplog.at_level(logging.WARNING):
        classify = pipeline("text-classification", model=model, tokenizer=model.tokenizer)
        found = classify(texts, top_k=None, batch_size=size)
    assert not caplog.records
    for row, answers in enumerate(found):
        scores = {answer["label"]: answer["score"] for answer in answers}
        assert answers[0]["label"] == LABELS[expected.labels[row]]
        for column, label in enumerate(learner.classes):
            truth = expected.probabilities[row, column]
            assert scores[LABELS[label]] == pytest.approx(truth, abs=1e-5)


def test_a_pipeline_of_images_answers_as_the_learner() -> None:
    learner = learner_of("vit", L2P(pool_size=4, top_k=2, length=2))
    model = CpoolForImageClassification.of(learner.model, LABELS)
    images = [Image.fromarray(image) for image in tiny.raw("vit", 5, seed=5)]
    classify = pipeline(
        "image-classification", model=model, image_processor=model.backbone.processor
    )
    found = [answers[0]["label"] for answers in classify(images, batch_size=2)]
    assert found == [LABELS[label] for label in learner.predict(images)]


def written(bases, number: int, folder: Path):
    """Return a model of a class of CLASSES after two tasks, saved to a folder."""
    kind = ("bert", "vit", "llama")[number]
    base = load_backbone(bases[kind])
    if number < 2:
        learner = learner_of(kind, L2P(pool_size=4, top_k=2, length=2), base)
        model = CLASSES[number].of(learner.model, LABELS)
    else:
        model = CpoolForCausalLM.of(PromptTuning(length=2).build(base))
        for name, text in (("red bird", "the cat sleeps"), ("loan", "lost card")):
            model.begin_task(name)
            batch = stacked(model.rows([text] * 2, ["red"] * 2))
            model(**batch)
            model.end_task([batch])
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("number", range(3))
def test_a_folder_holds_what_is_learned_and_names_the_rest(number, bases, tmp_path) -> None:
    model = written(bases, number, tmp_path / "mine")
    files = set(os.listdir(tmp_path / "mine"))
    extra = {"generation_config.json"} if number == 2 else set()
    assert files == {"config.json", "model.safetensors"} | extra
    state = load_file(tmp_path / "mine" / "model.safetensors")
    assert {key.removeprefix("prompted.") for key in state} == {*model.prompted.state_dict()}
    assert same(state, model.state_dict())
    frozen = {tensor.data_ptr() for tensor in model.backbone.parameters()}
    assert frozen.isdisjoint(tensor.data_ptr() for tensor in model.state_dict().values())
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert config["model_type"] == "cpool"
    assert config["base_model"]["fingerprint"] == model.backbone.fingerprint
    kind = ("bert", "vit", "llama")[number]
    batch = tiny.batch(kind, 5, seed=3)
    with torch.no_grad():
        expected = model(**batch).logits
        for made in (
            CLASSES[number].from_pretrained(tmp_path / "mine"),
            AUTO[number].from_pretrained(tmp_path / "mine"),
            CLASSES[number].from_pretrained(tmp_path / "mine", backbone=model.backbone),
        ):
            assert type(made) is CLASSES[number]
            assert not made.training
            assert torch.equal(made(**batch).logits, expected)
    # What was loaded goes on: the next task grows as in the model that was never written.
    if number == 0:
        assert made.begin_task([0, 1]) == 2


def test_a_pipeline_is_made_from_a_folder(bases, tmp_path) -> None:
    model = written(bases, 0, tmp_path / "mine")
    tokenizer = model.backbone.processor
    by_name = pipeline("text-classification", model=str(tmp_path / "mine"), tokenizer=tokenizer)
    by_model = pipeline("text-classification", model=model, tokenizer=tokenizer)
    texts = tiny.raw("bert", 3)
    assert by_name(texts) == by_model(texts)
    model = written(bases, 2, tmp_path / "words")
    tokenizer = model.backbone.processor
    options = {"max_new_tokens": 4, "do_sample": False}
    by_name = pipeline("text-generation", model=str(tmp_path / "words"), tokenizer=tokenizer)
    made = by_name(["the cat sleeps", "lost card"], batch_size=2, **options)
    texts = [row[0]["generated_text"] for row in made]
    assert [text[:9] for text in texts] == ["the cat s", "lost card"]
    ids = model.generate(**tokenizer("lost card", return_tensors="pt"), **options)
    whole = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert texts[1].replace(" ", "") == whole.replace(" ", "")


def test_tied_weights_of_a_trained_copy_are_written_and_read(tmp_path) -> None:
    learner = learner_of("gpt2", FineTuneWords())
    model = CpoolForSequenceClassification.of(learner.model, LABELS)
    model.save_pretrained(tmp_path)
    again = CpoolForSequenceClassification.from_pretrained(tmp_path, backbone=model.backbone)
    assert same(model.state_dict(), again.state_dict())


def test_a_pipeline_changes_nothing_that_a_saved_model_is_known_by(bases, tmp_path) -> None:
    """It pads on the left from then on, which is no other backbone."""
    model = written(bases, 2, tmp_path / "before")
    tokenizer = model.backbone.processor
    before = model.backbone.transform_fingerprint
    pipeline("text-generation", model=model, tokenizer=tokenizer)
    tokenizer.padding_side = "left"
    assert model.backbone.transform_fingerprint == before
    model.save_pretrained(tmp_path / "after")
    again = type(model).from_pretrained(tmp_path / "after")
    assert same(model.state_dict(), again.state_dict())


def test_push_to_hub_uploads_what_is_learned_and_nothing_else(bases, tmp_path, monkeypatch) -> None:
    model = written(bases, 0, tmp_path / "mine")
    seen: list[tuple[str, list[str], int]] = []
    seen_names: list[str] = []

    class Repo:
        repo_id = "somebody/mine"

    class Api:
        def create_repo(self, name, **options):
            assert name == "mine"
            return Repo()

        def create_commit(self, repo_id, operations, **options):
            (config,) = [p for p in operations if p.path_in_repo == "config.json"]
            text = Path(config.path_or_fileobj).read_text(encoding="utf-8")
            seen_names.append(json.loads(text)["base_model"]["name"])
            sizes = [Path(part.path_or_fileobj).stat().st_size for part in operations]
            seen.append((repo_id, sorted(p.path_in_repo for p in operations), sum(sizes)))

    from transformers.utils import hub

    monkeypatch.setattr(hub, "hf_api", Api)
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *a, **k: Card())
    with pytest.raises(ConfigError, match="a folder of this machine"):
        model.push_to_hub("mine")
    assert not seen
    model.base = "somebody/tiny-bert"
    model.push_to_hub("mine")
    assert seen_names == ["somebody/tiny-bert"]
    ((repo, files, size),) = seen
    assert repo == "somebody/mine"
    assert files == ["README.md", "config.json", "model.safetensors"]
    assert size < (bases["bert"] / "model.safetensors").stat().st_size / 2


class Card:
    def save(self, path) -> None:
        Path(path).write_text("A pool of prompts.")


def test_what_cannot_be_loaded_is_refused(bases, tmp_path) -> None:
    written(bases, 0, tmp_path / "mine")
    load = CpoolForSequenceClassification.from_pretrained
    other = tiny.new("bert")
    with torch.no_grad():
        next(iter(other.model.parameters())).add_(1.0)
    with pytest.raises(ConfigError, match="PromptTuning or PrefixTuning"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "mine")
    with pytest.raises(ConfigError, match="CpoolForSequenceClassification"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "mine")
    with pytest.raises(ConfigError, match="CpoolForImageClassification"):
        CpoolForSequenceClassification.of(NCM().build(tiny.backbone("vit")), LABELS)
    with pytest.raises(CheckpointError, match="the backbone of the checkpoint"):
        load(tmp_path / "mine", backbone=other)
    with pytest.raises(ConfigError, match="quantization_config"):
        load(tmp_path / "mine", quantization_config={"bits": 4})
    with pytest.raises(ConfigError, match="device_map"):
        load(tmp_path / "mine", device_map="auto")
    config = CpoolConfig.from_pretrained(tmp_path / "mine")
    config.base_model["name"] = "./no/such/folder"
    with pytest.raises(BackboneError, match="no/such/folder"):
        load(tmp_path / "mine", config=config)
    with pytest.raises(CheckpointError, match=r"config\.json and model\.safetensors"):
        load(tmp_path / "nothing")
    weights = tmp_path / "mine" / "model.safetensors"
    kept = load_file(weights)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json and model\.safetensors"):
        load(tmp_path / "mine")
    save_file({**kept, "prompted.more": torch.zeros(1)}, weights)
    with pytest.raises(CheckpointError, match=r"(?s)does not fit.*prompted\.more"):
        load(tmp_path / "mine")


def test_a_method_of_ones_own_is_given_when_it_is_loaded(tmp_path) -> None:
    backbone = tiny.backbone("bert")

    def own() -> PromptedModel:
        made = NCM().build(backbone)
        made.method = None
        return made

    model = CpoolForSequenceClassification.of(own(), LABELS)
    model.begin_task(TASKS[0])
    model.end_task([stacked(model.rows(tiny.raw("bert", 8), [*TASKS[0]] * 4))])
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="registered method"):
        CpoolForSequenceClassification.from_pretrained(tmp_path, backbone=backbone)
    again = CpoolForSequenceClassification.from_pretrained(tmp_path, prompted=own())
    batch = tiny.batch("bert")
    assert torch.equal(again(**batch).logits, model(**batch).logits)
