"""A tiny random vision model on disk, and experiment files that run on it in seconds."""

from pathlib import Path

import torch

SMALL = """
seeds = [0, 1]
[backbone]
name = "{backbone}"
[stream]
name = "split_digits"
tasks = 2
[[method]]
name = "ncm"
[[method]]
name = "l2p"
pool_size = 4
top_k = 2
length = 2
[method.train]
epochs = 1
"""


def write_backbone(folder: Path) -> Path:
    """Write a ViT of 2 layers with random weights as `save_pretrained` does."""
    from transformers import AutoImageProcessor, ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_channels=3,
    )
    torch.manual_seed(0)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, '
        '"do_resize": true, "do_rescale": true, "do_normalize": true, '
        '"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}',
        encoding="utf-8",
    )
    AutoImageProcessor.from_pretrained(folder, backend="pil")
    return folder


def write_experiment(path: Path, backbone: Path, text: str = SMALL) -> Path:
    """Write an experiment file for that backbone."""
    path.write_text(text.replace("{backbone}", str(backbone)), encoding="utf-8")
    return path
