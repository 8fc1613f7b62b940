"""Real pretrained models: MiniLM and SmolLM2, from packages that hold them."""

from functools import cache
from inspect import signature
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from cpool.backbones import Backbone, load_backbone
from cpool.inject import encode
from cpool.prompter import Prompts
from tests import tiny

TEXTS = [
    "I lost my bank card",
    "my credit card was stolen yesterday evening on the train",
    "what is the weather like tomorrow",
    "please tell me if it is going to rain in the next days or not",
]


@cache
def loaded(folder: Path) -> Backbone:
    return load_backbone(folder)


def drawn(backbone: Backbone, what: str, size: int = 4) -> Prompts:
    shape = (size, backbone.num_kv_heads, 5, backbone.head_dim)
    numbers = range(0, backbone.num_layers, 2) if what in ("prefix", "both") else ()
    layers = {i: (torch.randn(shape) * 0.5, torch.randn(shape) * 0.1) for i in numbers}
    tokens = 0.05 * torch.randn(size, 4, backbone.hidden_size)
    return Prompts(tokens if what in ("tokens", "both") else None, layers, torch.zeros(()), {})


def check_invariance(backbone: Backbone, what: str) -> None:
    batch, prompts = backbone.prepare(TEXTS), drawn(backbone, what)
    together = encode(backbone, batch, prompts)
    features = backbone.pool(together.hidden_states, together.mask)
    # Decoders have entries of about a thousand in some features, hence relative to the largest.
    limit = 1e-5 * max(1.0, float(features.abs().max()))
    for i in range(4):
        row = slice(i, i + 1)
        alone = encode(backbone, tiny.unpadded(batch, i), tiny.part(prompts, row))
        mine = backbone.pool(alone.hidden_states, alone.mask)
        torch.testing.assert_close(mine, features[row], rtol=0, atol=limit)
    for side in ("left", "right"):
        padded = encode(backbone, tiny.padded(batch, 7, side), prompts)
        mine = backbone.pool(padded.hidden_states, padded.mask)
        torch.testing.assert_close(mine, features, rtol=0, atol=limit)


def test_minilm_knows_what_is_alike(minilm_path: Path) -> None:
    backbone = load_backbone(minilm_path, normalize=True)
    assert (backbone.family, backbone.pooling, backbone.hidden_size) == ("bert", "mean", 384)
    query = backbone.query(backbone.prepare(TEXTS))
    torch.testing.assert_close(query.norm(dim=1), torch.ones(4))
    alike = query @ query.T
    assert alike[0, 1] > alike[0, 2:].max() + 0.2 and alike[2, 3] > alike[1, 2:].max() + 0.2


@pytest.mark.parametrize("what", ["none", "tokens", "prefix", "both"])
def test_minilm_rows_do_not_depend_on_others(minilm_path: Path, what: str) -> None:
    check_invariance(loaded(minilm_path), what)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["none", "both"])
def test_smollm_rows_do_not_depend_on_others(smollm_path: Path, what: str) -> None:
    check_invariance(loaded(smollm_path), what)


@pytest.mark.slow
def test_smollm_prefix_equals_a_cache(smollm_path: Path) -> None:
    backbone = loaded(smollm_path)
    assert (backbone.kind, backbone.num_heads, backbone.num_kv_heads) == ("causal", 9, 3)
    assert backbone.lm_head is not None
    batch = backbone.prepare(TEXTS[:2])
    shape = (2, 3, 5, backbone.head_dim)
    layers = {i: (torch.randn(shape), torch.randn(shape)) for i in range(backbone.num_layers)}
    ours = encode(backbone, batch, Prompts(None, layers, torch.zeros(()), {})).hidden_states[-1]
    past = DynamicCache()
    for number, (key, value) in layers.items():
        past.update(key.clone(), value.clone(), number)
    mask = batch["attention_mask"]
    takes = "cache" if "cache" in signature(backbone.model.forward).parameters else None
    with torch.no_grad():
        theirs = backbone.model(
            input_ids=batch["input_ids"],
            attention_mask=torch.cat([torch.ones(2, 5).long(), mask], 1),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0) + 5,
            **{takes or "past_key_values": past},
        ).last_hidden_state
    assert torch.equal(ours[mask.bool()], theirs[mask.bool()])
