"""The embedded backbone: it loads, it is as good as its card says, and no digit went into it."""

import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTModel

from benchmarks.pretrain import augment, digits, glyph_vit, glyphs

FOLDER = Path(__file__).resolve().parents[2] / "cpool" / "assets" / "glyph-vit"
PLAIN_LOOKALIKES = "GOoQDCceIiJjlL|!SsZzBbGgqpaYy79?&ΟοΘθІіЅѕЗзЭэЧчБбОоՕօ∞°○●◯◦•∣ß§Øø/\\()[]{}"


@pytest.fixture(scope="module")
def classes() -> list[glyphs.GlyphClass]:
    return glyphs.glyph_classes()


@pytest.fixture(scope="module")
def card() -> str:
    """The model card; a test that looks for words in it does not mind where lines end."""
    return (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def log() -> dict:
    return json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recomputed() -> dict[str, float]:
    return digits.figures(FOLDER)


def test_it_reaches_what_it_must_on_digits_it_never_saw(recomputed):
    assert recomputed["nearest class mean"] >= 88
    assert recomputed["linear probe"] >= 96


def test_the_card_gives_these_figures(recomputed, card):
    for name, value in recomputed.items():
        stated = re.search(rf"^\| {name} +\| +([\d.]+) %", card, re.MULTILINE)
        assert stated, f"the card has no line '| {name} | … % |'"
        assert float(stated[1]) == pytest.approx(value, abs=0.2)


def test_the_card_agrees_with_the_training_log(card, log):
    card = " ".join(card.split())
    for count in ("classes", "characters", "drawings", "parameters"):
        assert f"{log[count]:,} {count}" in card
    assert f"{len(log['fonts'])} fonts" in card
    assert f"seed {log['recipe']['seed']}" in card
    assert f"{log['recipe']['steps']:,} steps" in card
    assert f"{log['seconds'] / 60:.0f} minutes" in card
    assert f"matplotlib {log['matplotlib']}" in card
    assert log["step"] == log["recipe"]["steps"]
    for licence in set(log["fonts"].values()):
        assert licence in card


def test_it_is_small():
    assert (FOLDER / "model.safetensors").stat().st_size <= 5_000_000


def test_transformers_loads_every_weight_and_misses_none():
    model, loaded = ViTModel.from_pretrained(
        FOLDER, add_pooling_layer=False, output_loading_info=True
    )
    assert not any(loaded.values()), loaded
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_image_processor_makes_the_images_it_was_measured_on():
    settings = json.loads((FOLDER / "preprocessor_config.json").read_text())
    model = json.loads((FOLDER / "config.json").read_text())
    assert settings["size"] == {"height": model["image_size"], "width": model["image_size"]}
    assert settings["image_mean"] == settings["image_std"] == [0.5, 0.5, 0.5]
    assert settings["resample"] == 2  # bilinear
    assert settings["rescale_factor"] == pytest.approx(1 / 255)


def test_no_class_has_a_digit_or_a_look_alike(classes):
    listed = {character for glyph in classes for character in glyph.characters}
    for character in listed:
        parts = character + unicodedata.normalize("NFKD", character)
        assert all(unicodedata.numeric(part, None) is None for part in parts), character
        assert all(unicodedata.category(part)[0] != "N" for part in parts), character
        assert not set(parts) & set(PLAIN_LOOKALIKES), character


def test_no_drawing_resembles_a_digit(classes):
    drawings, _ = glyphs.atlas(classes)
    shapes = np.stack([glyphs.coarse(drawing) for drawing in drawings])
    assert (shapes @ glyphs.digit_drawings().T).max() < glyphs.RESEMBLANCE


@pytest.mark.parametrize("character", "0५½①⑴Ⅷ²𝟛⓿OÓ𝓞Ⓞ")
def test_these_are_left_out(character):
    assert glyphs.is_excluded(character)


@pytest.mark.parametrize("character", "AEk𝔄Ψжשش→⊂♞")
def test_these_are_not(character):
    assert not glyphs.is_excluded(character)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_images_follow_from_the_seed_and_stay_in_range(classes, strength):
    drawings = torch.from_numpy(glyphs.atlas(classes[:20])[0])
    first, second = (
        augment.augment(drawings, 32, strength, torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert first.shape == (len(drawings), 3, 32, 32)
    assert first.min() >= -1 and first.max() <= 1
    assert torch.equal(first, second)


def test_a_resumed_training_ends_with_the_same_weights(tmp_path, monkeypatch, classes):
    monkeypatch.setattr(glyph_vit, "glyph_classes", lambda: classes[:50])
    once, twice = tmp_path / "once", tmp_path / "twice"
    run = ["--steps", "6", "--batch", "8", "--every", "2", "--out"]
    glyph_vit.main([*run, str(once)])
    glyph_vit.main([*run, str(twice), "--stop-at", "3"])
    assert not (twice / "model.safetensors").exists()
    glyph_vit.main([*run, str(twice)])
    first, second = (load_file(folder / "model.safetensors") for folder in (once, twice))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_state_of_another_recipe_is_refused(tmp_path, monkeypatch, classes):
    monkeypatch.setattr(glyph_vit, "glyph_classes", lambda: classes[:50])
    glyph_vit.main(["--steps", "2", "--batch", "4", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="another recipe"):
        glyph_vit.main(["--steps", "3", "--batch", "4", "--out", str(tmp_path)])
