"""The numbers of the reference implementations: tests/golden/README.md, sections 1, 2, 3, 5."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from cpool.backbones import Backbone, wrap_model
from cpool.inject import encode
from cpool.prompter import Prompts
from tests.golden_vit import FOLDER, golden_backbone, images

CLOSE: Any = {"rtol": 0, "atol": 1e-5}
LOSS = torch.zeros(())


@pytest.mark.parametrize("name", ["l2p", "dualprompt", "coda"])
def test_query(name: str) -> None:
    backbone, golden = golden_backbone(f"{name}.safetensors")
    torch.testing.assert_close(backbone.query(images(golden)), golden["query"], **CLOSE)


def test_l2p_tokens_after_cls_without_position() -> None:
    backbone, golden = golden_backbone("l2p.safetensors")
    tokens = golden["prompt"][golden["idx"].long()].flatten(1, 2)
    encoded = encode(backbone, images(golden), Prompts(tokens, {}, LOSS, {}))
    torch.testing.assert_close(encoded.hidden_states[-1], golden["out.zero.tokens"], **CLOSE)
    features = encoded.hidden_states[-1][:, encoded.prompts].mean(1)
    torch.testing.assert_close(features, golden["out.zero.prompt.features"], **CLOSE)


def block_outputs(
    backbone: Backbone, batch: dict[str, Tensor], layers: dict[int, tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return what each block gives before the final norm, and the final tokens."""
    last: list[Tensor] = []
    block = backbone.model.layers[-1]
    handle = block.register_forward_hook(lambda module, args, output: last.append(output))
    encoded = encode(backbone, batch, Prompts(None, layers, LOSS, {}), all_layers=True)
    handle.remove()
    return torch.stack([*encoded.hidden_states[1:-1], last[-1]]), encoded.hidden_states[-1]


def check_blocks(blocks: Tensor, golden: Tensor) -> None:
    """Outputs before the final norm are large, so the tolerance is relative to the largest."""
    limit = 1e-5 * max(1.0, float(golden.abs().max()))
    torch.testing.assert_close(blocks, golden, rtol=0, atol=limit)


def test_dualprompt_prefixes() -> None:
    backbone, golden = golden_backbone("dualprompt.safetensors")
    layers = {}
    for layer in (0, 1):  # [2 length head width] → [1 head length width] each
        key, value = golden["g_prompt"][layer].transpose(1, 2).unsqueeze(1)
        layers[layer] = (key, value)
    chosen = golden["idx"].long().flatten()
    for number, layer in enumerate((2, 3, 4)):  # [2 pool length head width]
        key, value = golden["e_prompt"][number][:, chosen].transpose(2, 3)
        layers[layer] = (key, value)
    blocks, tokens = block_outputs(backbone, images(golden), layers)
    check_blocks(blocks, golden["out.block_outputs"])
    torch.testing.assert_close(tokens, golden["out.tokens"], **CLOSE)
    torch.testing.assert_close(tokens[:, 0], golden["out.features"], **CLOSE)


def test_coda_prefixes() -> None:
    backbone, golden = golden_backbone("coda.safetensors")

    def heads(rows: Tensor) -> Tensor:
        return rows.unflatten(2, (4, 8)).transpose(1, 2)

    layers = {
        layer: (heads(golden["prefix_k"][layer]), heads(golden["prefix_v"][layer]))
        for layer in range(5)
    }
    blocks, tokens = block_outputs(backbone, images(golden), layers)
    check_blocks(blocks, golden["out.block_outputs"])
    torch.testing.assert_close(tokens[:, 0], golden["out.features"], **CLOSE)


# ---- PEFT -------------------------------------------------------------------------------------


def peft() -> tuple[Backbone, dict[str, Tensor]]:
    golden = load_file(FOLDER / "peft_llama.safetensors")
    config = json.loads((FOLDER / "peft" / "llama_config.json").read_text())
    model = LlamaForCausalLM(LlamaConfig(**config))
    weights = {k.removeprefix("base."): v for k, v in golden.items() if k.startswith("base.")}
    model.load_state_dict(weights)
    return wrap_model(model, name="golden-llama"), golden


def adapter(name: str) -> dict[str, Tensor]:
    return load_file(Path(FOLDER, "peft", f"llama_{name}", "adapter_model.safetensors"))


def batch_of(golden: dict[str, Tensor], side: str) -> dict[str, Tensor]:
    return {key: golden[f"{side}.{key}"] for key in ("input_ids", "attention_mask")}


def cache_prompts(name: str) -> Prompts:
    """Rows (layer0 K, layer0 V, layer1 K, layer1 V), each 2 key-value heads of 8."""
    rows = adapter(name)["prompt_embeddings"].unflatten(1, (4, 2, 8)).permute(1, 2, 0, 3)
    k0, v0, k1, v1 = rows.unsqueeze(1)
    return Prompts(None, {0: (k0, v0), 1: (k1, v1)}, LOSS, {})


@pytest.mark.parametrize("name", ["prefix_tuning", "prefix_tuning_projection", "cartridge"])
def test_peft_prefixes(name: str) -> None:
    backbone, golden = peft()
    assert backbone.lm_head is not None
    batch = batch_of(golden, "right")
    encoded = encode(backbone, batch, cache_prompts(name))
    logits = backbone.lm_head(encoded.hidden_states[-1])
    real = encoded.mask
    torch.testing.assert_close(logits[real], golden[f"{name}.right.logits"][real], **CLOSE)
    # PEFT depends on the side of the padding; we do not.
    left = encode(backbone, batch_of(golden, "left"), cache_prompts(name))
    other = backbone.lm_head(left.hidden_states[-1])
    torch.testing.assert_close(other[left.mask], logits[real], **CLOSE)


@pytest.mark.parametrize("name", ["prompt_tuning", "multitask_prompt_tuning"])
def test_peft_prompts(name: str) -> None:
    backbone, golden = peft()
    assert backbone.lm_head is not None
    saved = adapter(name)
    tokens = saved["prompt_embeddings"].expand(3, -1, -1)
    if name.startswith("multitask"):
        tasks = golden[f"{name}.task_ids"].long()
        tokens = tokens * (saved["prefix_task_cols"] @ saved["prefix_task_rows"])[tasks]
    prompts = Prompts(tokens, {}, LOSS, {})
    encoded = encode(backbone, batch_of(golden, "right"), prompts)
    logits = backbone.lm_head(encoded.hidden_states[-1])
    kept = encoded.mask.clone()
    kept[:, encoded.prompts] = True
    torch.testing.assert_close(logits[kept], golden[f"{name}.right.logits"][kept], **CLOSE)
    left = encode(backbone, batch_of(golden, "left"), prompts)
    other = backbone.lm_head(left.hidden_states[-1])
    torch.testing.assert_close(other[left.mask], logits[encoded.mask], **CLOSE)


def test_plain_model() -> None:
    backbone, golden = peft()
    assert backbone.lm_head is not None
    for side in ("right", "left"):
        encoded = encode(backbone, batch_of(golden, side), None)
        logits = backbone.lm_head(encoded.hidden_states[-1])[encoded.mask]
        torch.testing.assert_close(
            logits, golden[f"none.{side}.logits"][encoded.mask], rtol=0, atol=2e-5
        )
