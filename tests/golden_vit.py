"""The ViT of the golden files, built as a transformers ViTModel."""

from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import ViTConfig, ViTModel

from cpool.backbones import Backbone, wrap_model

FOLDER = Path(__file__).parent / "golden"


def golden_tensors(name: str) -> dict[str, Tensor]:
    """Return the tensors of a golden file such as "l2p.safetensors"."""
    return load_file(FOLDER / name)


@lru_cache
def golden_backbone(name: str) -> tuple[Backbone, dict[str, Tensor]]:
    """Return the backbone of a golden file, and all of its tensors."""
    tensors = golden_tensors(name)
    timm = {k.removeprefix("vit."): v for k, v in tensors.items() if k.startswith("vit.")}
    weights = _translate(timm)
    depth = 1 + max(int(k.split(".")[1]) for k in timm if k.startswith("blocks."))
    model = ViTModel(_config(depth), add_pooling_layer=False)
    model.load_state_dict(weights)
    return wrap_model(model, name=f"golden-{name.split('.')[0]}"), tensors


def _config(depth: int) -> ViTConfig:
    return ViTConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=depth,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _translate(timm: dict[str, Tensor]) -> dict[str, Tensor]:
    fixed = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    inner = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    weights = {}
    for name, tensor in timm.items():
        stem, _, leaf = name.rpartition(".")
        if not name.startswith("blocks."):
            whole = name in fixed
            weights[fixed[name] if whole else f"{fixed[stem]}.{leaf}"] = tensor
            continue
        _, layer, part = stem.split(".", 2)
        if part == "attn.qkv":
            for key, rows in zip("qkv", tensor.chunk(3), strict=True):
                weights[f"layers.{layer}.attention.{key}_proj.{leaf}"] = rows
        else:
            weights[f"layers.{layer}.{inner[part]}.{leaf}"] = tensor
    return {name: tensor.contiguous() for name, tensor in weights.items()}


def images(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the images of a golden file as a batch."""
    return {"pixel_values": tensors["images"].to(torch.float32)}
