"""Time a training step of L2P against the bare backbone with as many extra tokens.

The bare step is written here without cpool: the model's own layers over [CLS], N trainable
tokens and the patches, forward and backward. Run:

    python benchmarks/speed/step.py [--rounds 15] [--batch 8] [--out benchmarks/results/speed.json]
"""

import argparse
import json
import platform
from pathlib import Path

import torch
from ratio import measure, ratios
from transformers import ViTConfig, ViTModel

import cpool
from cpool.methods import L2P, DualPrompt
from cpool.optimise import make_optimizer

TARGETS = {"L2P, cached query": 1.10, "L2P, query computed": 1.55}


def vit(hidden: int, depth: int) -> ViTModel:
    """Return a random ViT of the size of ViT-S/16 at 224 pixels."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=hidden,
        num_hidden_layers=depth,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )
    return ViTModel(config, add_pooling_layer=False)


def bare_step(model: ViTModel, pixels: torch.Tensor, tokens: int):
    """Return the forward and backward of the model with `tokens` trainable extra tokens."""
    extra = torch.zeros(1, tokens, model.config.hidden_size, requires_grad=True)

    def step() -> None:
        hidden = model.embeddings(pixels)
        hidden = torch.cat([hidden[:, :1], extra.expand(len(pixels), -1, -1), hidden[:, 1:]], 1)
        for layer in model.layers:
            hidden = layer(hidden)
        model.layernorm(hidden)[:, 1 : 1 + tokens].mean().backward()
        extra.grad = None

    return step


def method_step(method, backbone, pixels: torch.Tensor, cached: bool):
    """Return a whole training step of a method: forward, backward, clip, optimiser."""
    model = method.build(backbone)
    model.begin_task(range(10))
    optimizer = make_optimizer(model, method.settings)
    batch = {"pixel_values": pixels, "labels": torch.arange(len(pixels)) % 10}
    if cached:
        batch["query"] = backbone.query(batch)

    def step() -> None:
        loss = model(batch, task=0).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), 1.0)
        optimizer.step()

    return step


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = vit(args.hidden, args.depth)
    backbone = cpool.wrap_model(model, name="random ViT-S/16")
    pixels = torch.randn(args.batch, 3, 224, 224)
    l2p, dual = L2P(), DualPrompt()
    works = {
        "bare backbone, 25 extra tokens": bare_step(model, pixels, 25),
        "L2P, cached query": method_step(l2p, backbone, pixels, cached=True),
        "L2P, query computed": method_step(l2p, backbone, pixels, cached=False),
        "DualPrompt, cached query": method_step(dual, backbone, pixels, cached=True),
    }
    base = next(iter(works))
    seconds = measure(works, args.rounds)
    ratio = ratios(seconds, base)
    for name, value in ratio.items():
        target = f"   target ≤ {TARGETS[name]:.2f}" if name in TARGETS else ""
        print(f"{name:34s} {value:5.2f} ×{target}")
    if args.out:
        result = {
            "what": "median over rounds of step time / bare step time, same process, in turns",
            "model": f"ViT hidden {args.hidden}, depth {args.depth}, 224 pixels, patch 16",
            "batch": args.batch,
            "rounds": args.rounds,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "ratios": {name: round(value, 3) for name, value in ratio.items()},
            "targets": TARGETS,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
