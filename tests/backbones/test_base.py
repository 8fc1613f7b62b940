"""Backbone: frozen for ever, sizes from the config, query choices."""

import copy
import json
import pickle
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from cpool.backbones import BACKBONES, Backbone, wrap_model
from cpool.errors import BackboneError, ConfigError, DataError, StateError
from tests import tiny


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_sizes(kind: str) -> None:
    backbone = tiny.backbone(kind)
    assert (backbone.hidden_size, backbone.num_layers, backbone.num_heads) == (32, 3, 4)
    assert backbone.head_dim == 8
    assert backbone.num_kv_heads == (2 if kind in ("llama", "qwen2") else 4)
    assert backbone.query_size == backbone.query(tiny.batch(kind, 2)).shape[1] == 32
    known = {"vision": tiny.VISION, "causal": tiny.DECODERS, "seq2seq": tiny.SEQ2SEQ}
    expected = next((name for name, kinds in known.items() if kind in kinds), "text")
    assert backbone.kind == expected
    assert backbone.has_cls == (kind != "siglip" and kind not in tiny.SPEAKING)
    assert backbone.has_words == (kind in tiny.SPEAKING)
    assert backbone.pooling == ("cls" if expected == "vision" and kind != "siglip" else "mean")
    assert json.loads(json.dumps(backbone.spec()))["fingerprint"] == backbone.fingerprint


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_frozen_whatever_is_called(kind: str) -> None:
    backbone = tiny.KINDS[kind]()
    batch = tiny.batch(kind, 3)
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    before = backbone.query(batch)
    holder = nn.ModuleList([backbone]).train()
    assert not any(module.training for module in backbone.modules()) and holder.training
    assert torch.equal(backbone.query(batch), before)
    backbone.model.train()  # behind our back
    assert torch.equal(backbone.query(batch), before)
    assert not any(p.requires_grad for p in backbone.parameters())
    with pytest.raises(StateError, match="trainable_copy"):
        backbone.requires_grad_()
    assert not before.requires_grad


def test_one_copy_in_memory() -> None:
    backbone = tiny.backbone("vit")
    holder = nn.ModuleDict({"a": backbone})
    assert copy.deepcopy(holder)["a"] is backbone
    other = backbone.trainable_copy()
    assert other.model is not backbone.model and other.fingerprint == backbone.fingerprint
    assert all(p.requires_grad for p in other.parameters())
    assert other.train().model.training and copy.deepcopy(other) is not other
    other.features(tiny.batch("vit", 2)).sum().backward()
    assert any(p.grad is not None for p in other.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_a_trainable_copy_holds_what_trains_and_no_head(tied: bool) -> None:
    config = transformers.LlamaConfig(**tiny.model("llama").config.to_dict())
    config.tie_word_embeddings = tied
    backbone = wrap_model(transformers.LlamaForCausalLM(config))
    assert backbone.lm_head is not None
    other = backbone.trainable_copy()
    assert other.lm_head is None and other.fingerprint == backbone.fingerprint
    held = {id(p) for p in other.parameters()}
    assert held == {id(p) for p in other.plain_model.parameters()}
    other.train().features(tiny.batch("llama")).sum().backward()
    assert all(p.grad is not None for p in other.parameters())


def test_a_copy_of_a_copy_keeps_a_tied_head_tied() -> None:
    config = transformers.LlamaConfig(**tiny.model("llama").config.to_dict())
    config.tie_word_embeddings = True
    frozen = wrap_model(transformers.LlamaForCausalLM(config))
    free = Backbone(
        frozen.model, frozen.kind_of, language_model=frozen.language_model, frozen=False
    )
    other: Any = copy.deepcopy(free)
    assert other.lm_head.weight is other.model.embed_tokens.weight
    assert other.lm_head.weight is not frozen.model.embed_tokens.weight


def test_an_encoder_decoder_is_read_by_its_encoder_and_speaks_by_its_decoder() -> None:
    backbone, batch = tiny.new("t5"), tiny.batch("t5", 3)
    model = backbone.language_model
    assert backbone.model is model.encoder and backbone.decoder is model.decoder
    assert backbone.lm_head is model.lm_head and backbone.has_words
    assert backbone.spec()["parameters"] == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        states = model.encoder(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
    torch.testing.assert_close(backbone.query(batch), mean)
    reader = backbone.trainable_copy()
    assert reader.decoder is None and reader.lm_head is None
    assert reader.fingerprint == backbone.fingerprint
    speaker = copy.deepcopy(backbone.trainable_copy(words=True))
    assert speaker.decoder is speaker.language_model.decoder
    assert speaker.lm_head.weight is speaker.model.embed_tokens.weight
    assert speaker.lm_head.weight is not backbone.lm_head.weight
    held = {id(p) for p in speaker.parameters()}
    assert held == {id(p) for p in speaker.language_model.parameters()}


def test_layers_and_normalize() -> None:
    batch = tiny.batch("bert", 3)
    plain = tiny.backbone("bert")
    several = wrap_model(plain.model, plain.processor, layers=(1, 2, -1), normalize=True)
    query = several.query(batch)
    assert query.shape == (3, several.query_size) == (3, 96)
    torch.testing.assert_close(query.norm(dim=1), torch.ones(3))
    parts = [plain.features(batch, layers=(i,)) for i in (1, 2, 3)]
    by_hand = torch.cat([p / p.norm(dim=1, keepdim=True) for p in parts], 1) / 3**0.5
    torch.testing.assert_close(query, by_hand, rtol=0, atol=1e-6)
    assert torch.equal(parts[2], plain.query(batch))
    assert several.spec()["layers"] == [1, 2, -1] and several.spec()["normalize"] is True
    states, mask = plain.encode(batch, layers=(0, 1, 2, 3))
    assert torch.equal(several.pool(states, mask), query)


@pytest.mark.parametrize("kind", [k for k in tiny.KINDS if k not in ("mpnet", "deberta")])
def test_states_are_those_of_transformers(kind: str) -> None:
    backbone, batch = tiny.KINDS[kind](), tiny.padded(tiny.batch(kind, 3), 0, "right")
    states, _ = backbone.encode(batch, layers=range(4))
    inputs = backbone.model_inputs(batch)
    if "attention_mask" in inputs:
        inputs |= backbone.positions(inputs["attention_mask"])
    with torch.no_grad():
        theirs = backbone.model(**inputs, output_hidden_states=True).hidden_states
    assert len(theirs) == 4
    for one, other in list(zip(states, theirs, strict=True))[:3]:
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_final_norm_is_applied(kind: str) -> None:
    backbone, batch = tiny.backbone(kind), tiny.batch(kind, 2)
    (final,), _ = backbone.encode(batch)
    with torch.no_grad():
        last = backbone.model(**batch).last_hidden_state
        expected = last if kind == "siglip" else backbone.model.post_layernorm(last)
        assert torch.equal(final, expected)
        if kind == "clip":
            pooled = backbone.model(**batch).pooler_output
            torch.testing.assert_close(backbone.query(batch), pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        ("vit", {"layers": (4,)}, r"layers in -4\.\.3"),
        ("vit", {"layers": ()}, "at least one layer"),
        ("vit", {"pooling": "max"}, '"auto", "cls" or "mean"'),
        ("siglip", {"pooling": "cls"}, r"no \[CLS\]"),
        ("llama", {"pooling": "cls"}, r"no \[CLS\]"),
        ("vit", {"dtype": "int8"}, "floating point"),
    ],
)
def test_wrong_choices(kind: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        tiny.KINDS[kind](**options)


def test_pool_wants_the_layers_it_reads() -> None:
    backbone = wrap_model(tiny.model("vit"), layers=(2,))
    (final,), mask = backbone.encode(tiny.batch("vit", 2))
    with pytest.raises(BackboneError, match="all_layers=True"):
        backbone.pool((final,), mask)


@pytest.mark.parametrize(
    ("kind", "batch"),
    [
        ("vit", {}),
        ("vit", {"pixel_values": torch.zeros(3, 16, 16)}),
        ("bert", {"pixel_values": torch.zeros(1, 3, 16, 16)}),
        ("bert", {"input_ids": torch.zeros(4).long()}),
    ],
)
def test_wrong_batches(kind: str, batch: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DataError, match="expected a batch with"):
        tiny.backbone(kind).query(batch)


def test_cls_of_left_padded_text() -> None:
    backbone = wrap_model(tiny.model("bert"), tiny.tokenizer(side="left"), pooling="cls")
    texts = tiny.raw("bert", 4)
    left = backbone.prepare(texts)
    assert left["attention_mask"][:, 0].min() == 0
    right = wrap_model(tiny.model("bert"), tiny.tokenizer(), pooling="cls")
    torch.testing.assert_close(backbone.query(left), right.query(right.prepare(texts)))


def test_dtype_and_device() -> None:
    backbone = wrap_model(tiny.model("vit"), dtype="bfloat16", device="cpu")
    assert backbone.dtype == torch.bfloat16 and backbone.device.type == "cpu"
    assert backbone.spec()["dtype"] == "bfloat16" and backbone.spec()["bytes"] == sum(
        2 * p.numel() for p in backbone.parameters()
    )
    assert backbone.query(tiny.batch("vit")).dtype == torch.float32


def test_registry_names_every_kind() -> None:
    assert "embedded" in BACKBONES and {"vit", "bert", "llama"} <= set(BACKBONES)
    assert all(text and "\n" not in text for text in BACKBONES.values())
    families = {tiny.backbone(kind).family for kind in tiny.KINDS}
    assert families <= set(BACKBONES)


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2", "clip"])
def test_the_position_of_cls_is_what_the_embedding_adds_to_it(kind: str) -> None:
    backbone = tiny.backbone(kind)
    embeddings = backbone.plain_model.embeddings
    token = getattr(embeddings, "cls_token", getattr(embeddings, "class_embedding", None))
    with torch.no_grad():
        first = embeddings(**tiny.batch(kind))[:, 0]
    assert torch.allclose(first - token.flatten(), backbone.cls_position, atol=1e-6)


@pytest.mark.parametrize("kind", ["siglip", "beit", "bert", "llama"])
def test_no_cls_with_a_learned_position_is_said(kind: str) -> None:
    with pytest.raises(BackboneError, match="learned positions"):
        _ = tiny.backbone(kind).cls_position


@pytest.mark.parametrize("kind", ["vit", "bert", "llama", "t5"])
def test_a_pickled_backbone_reads_the_same_features(kind: str) -> None:
    """Workers of a search get their backbone so."""
    backbone = tiny.new(kind, layers=(1, -1))
    again = pickle.loads(pickle.dumps(backbone))
    inputs = tiny.batch(kind)
    assert torch.equal(again.query(inputs), backbone.query(inputs))
    assert again.fingerprint == backbone.fingerprint
    assert not any(p.requires_grad for p in again.parameters())
