"""The files that every peer of a comparison reads: backbone, streams, and features to compare."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import cpool
from benchmarks.peers.settings import Comparison
from cpool._io import write_bytes
from cpool.streams import Stream

SMOLLM2 = "smollm2-135m"


def write_inputs(comparison: Comparison, folder: Path, seeds: Sequence[int]) -> None:
    """Write what the processes of a comparison read.

    Args:
        comparison: what is compared.
        folder: gets `stream-SEED.json`, or for images `stream-SEED.npz`, `features-SEED.npy`,
            `backbone/` and `weights.safetensors`.
        seeds: one stream each; a seed also decides which samples are taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if comparison.kind == "text":
        return _texts(comparison.job, folder, seeds)
    model, processor = _vision(comparison.job["backbone"])
    model.save_pretrained(folder / "backbone")
    processor.save_pretrained(folder / "backbone")
    # Under the names that the modules have; `save_pretrained` may write those of older releases.
    save_file(model.state_dict(), folder / "weights.safetensors")
    for seed in seeds:
        stream = _stream("split_digits", comparison.job, seed)
        arrays: dict[str, np.ndarray] = {}
        for task in stream:
            for part, examples in (("", task.train), ("_test", task.test)):
                arrays[f"x{part}{task.index}"] = _resized(examples.x, model.config.image_size)
                arrays[f"y{part}{task.index}"] = examples.y
        np.savez_compressed(folder / f"stream-{seed}.npz", allow_pickle=False, **arrays)
        first = torch.from_numpy(arrays["x_test0"][:8]).permute(0, 3, 1, 2)
        # Without cpool: what the weights themselves say.
        with torch.no_grad():
            state = model(pixel_values=(first.float() * (1 / 255) - 0.5) / 0.5)
        np.save(folder / f"features-{seed}.npy", state.last_hidden_state[:, 0].numpy())


def _vision(backbone: Any) -> tuple[Any, Any]:
    """Return a ViT of transformers with its processor: the embedded one, or a random one."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    if backbone == "embedded":
        folder = Path(cpool.__file__).parent / "assets" / "glyph-vit"
        model = ViTModel.from_pretrained(folder, add_pooling_layer=False)
    else:
        torch.manual_seed(0)
        model = ViTModel(ViTConfig(**backbone), add_pooling_layer=False)
    side: Any = model.config.image_size
    processor = ViTImageProcessorPil(
        size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return model.train(False), processor


def _stream(name: str, job: dict[str, Any], seed: int) -> Stream:
    return cpool.load_stream(
        name,
        tasks=job["tasks"],
        seed=seed,
        validation=0,
        train_per_class=job["train_per_class"],
        test_per_class=job["test_per_class"],
        subset_seed=seed,
    )


def _resized(x: Any, side: int) -> np.ndarray:
    """Return grey images [n h w] as uint8 [n side side 3]: no peer has to resize them."""
    grey = torch.from_numpy(np.asarray(x))[:, None]
    large = torch.nn.functional.interpolate(grey, (side, side), mode="bilinear", antialias=True)
    return large.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().numpy()


def _texts(job: dict[str, Any], folder: Path, seeds: Sequence[int]) -> None:
    from benchmarks.smollm2 import convert

    model = folder.parent / SMOLLM2
    if not (model / "model.safetensors").is_file():
        convert(model)
    for seed in seeds:
        stream = _stream("snips", job, seed)
        said = {
            "backbone": str(model),
            "names": [_words(name) for name in stream.class_names],
            "tasks": [
                {
                    "classes": sorted(task.classes),
                    "x": list(task.train.x),
                    "y": task.train.y.tolist(),
                    "x_test": list(task.test.x),
                    "y_test": task.test.y.tolist(),
                }
                for task in stream
            ],
        }
        write_bytes(folder / f"stream-{seed}.json", json.dumps(said).encode())


def _words(name: str) -> str:
    """Return the name of an intent as words.

    >>> _words("AddToPlaylist")
    'add to playlist'
    """
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
