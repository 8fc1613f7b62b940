"""One run of Avalanche's LearningToPrompt on a stream of images; see `benchmarks.peers`.

Its strategy makes both of its ViTs from a name in `avalanche.models.vit`. Here that name stands
for a factory that makes its own class `ViTWithPrompt` in the size of the backbone and loads the
weights with Avalanche's own filter, which gives the prompts the position of [CLS]. The linear head,
768 wide whatever the model, is replaced by one of the right width before the first task.
"""

import json
import logging
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.benchmarks import nc_benchmark
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.models import vit
    from avalanche.models.timm_vit import ViTWithPrompt, checkpoint_filter_fn
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised.l2p import LearningToPrompt
    from safetensors.torch import load_file

from benchmarks.peers.measured import Run, images

NAME = "shared_vit"
PLACES = {
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}


class Images(Dataset[tuple[Tensor, int]]):
    """Prepared images with their labels, which Avalanche looks for in `targets`."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.targets = x, y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], self.targets[index]


def timm_weights(weights: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Return weights of transformers' ViT under the names of timm's."""
    made = {
        "cls_token": weights["embeddings.cls_token"],
        "pos_embed": weights["embeddings.position_embeddings"],
    }
    for kind in ("weight", "bias"):
        patch = weights[f"embeddings.patch_embeddings.projection.{kind}"]
        made[f"patch_embed.proj.{kind}"] = patch
        made[f"norm.{kind}"] = weights[f"layernorm.{kind}"]
        for layer in range(depth):
            own = f"layers.{layer}"
            parts = [weights[f"{own}.attention.{c}_proj.{kind}"] for c in "qkv"]
            made[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
            for theirs, timms in PLACES.items():
                made[f"blocks.{layer}.{timms}.{kind}"] = weights[f"{own}.{theirs}.{kind}"]
    return made


def factory(run: Run) -> Any:
    """Return what makes the ViT of the job, with or without a pool, with the given weights."""
    config = json.loads((run.folder / "backbone" / "config.json").read_text(encoding="utf-8"))
    weights = load_file(run.folder / "weights.safetensors")

    def make(pretrained: bool = True, **options: Any) -> ViTWithPrompt:
        depth = config["num_hidden_layers"]
        model = ViTWithPrompt(
            img_size=config["image_size"],
            patch_size=config["patch_size"],
            embed_dim=config["hidden_size"],
            depth=depth,
            num_heads=config["num_attention_heads"],
            mlp_ratio=config["intermediate_size"] / config["hidden_size"],
            norm_layer=lambda width: torch.nn.LayerNorm(width, eps=config["layer_norm_eps"]),
            **options,
        )
        state = checkpoint_filter_fn(timm_weights(weights, depth), model)
        missing, unknown = model.load_state_dict(state, strict=False)
        left = [name for name in missing if not name.startswith(("head.", "prompt."))]
        if left or unknown:
            raise SystemExit(f"weights that do not fit: missing {left}, unknown {unknown}")
        return model

    return make


def prepared(x: Any) -> Tensor:
    """Return the values [n 3 H W] that the image processor makes of the images."""
    values = torch.from_numpy(x).permute(0, 3, 1, 2).float() * (1 / 255)
    return ((values - 0.5) / 0.5).contiguous()


def strategy_of(run: Run, classes: int) -> LearningToPrompt:
    """Return the strategy with the hyper-parameters of the job."""
    job = run.job
    setattr(vit, NAME, factory(run))
    strategy = LearningToPrompt(
        model_name=NAME,
        train_mb_size=job["batch_size"],
        eval_mb_size=job["batch_size"],
        train_epochs=job["epochs"],
        device="cpu",
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
        pool_size=job["pool_size"],
        prompt_length=job["length"],
        top_k=job["top_k"],
        lr=job["lr"],
        sim_coefficient=job["pull"],
        num_classes=classes,
    )
    model = strategy.model
    model.head = torch.nn.Linear(model.embed_dim, classes)
    return strategy


def main() -> None:
    """Train and evaluate experience after experience."""
    run = Run.of_command_line()
    logging.disable(logging.WARNING)
    tasks = images(run)
    order = [int(c) for task in tasks for c in sorted(set(task["y"].tolist()))]
    with run.time("set_up"):
        strategy = strategy_of(run, len(order))
        parts = [
            Images(
                torch.cat([prepared(task[f"x{part}"]) for task in tasks]),
                torch.cat([torch.from_numpy(task[f"y{part}"]) for task in tasks]).long(),
            )
            for part in ("", "_test")
        ]
        benchmark = nc_benchmark(
            *parts,
            n_experiences=len(tasks),
            task_labels=False,
            fixed_class_order=order,
        )
    with torch.no_grad():
        features = strategy.original_vit(prepared(tasks[0]["x_test"][:8]))["pre_logits"]
    far = run.check_features(features)
    for t, experience in enumerate(benchmark.train_stream):
        with run.time("train"):
            strategy.train(experience)
        with run.time("evaluate"):
            found = strategy.eval(benchmark.test_stream[: t + 1])
        run.matrix.append(accuracies(found, t + 1))
    with run.time("evaluate_afresh"):
        strategy.eval(benchmark.test_stream)
    models = (strategy.model, strategy.original_vit)
    run.write(
        model=[t for m in models for t in (*m.parameters(), *m.buffers())],
        trained=sum(p.numel() for p in strategy.model.parameters() if p.requires_grad),
        feature_error=far,
    )


def accuracies(found: dict[str, float], tasks: int) -> list[float]:
    """Return the accuracy of each experience from what Avalanche's evaluation returned."""
    values = []
    for t in range(tasks):
        (value,) = [v for key, v in found.items() if key.endswith(f"/Exp{t:03d}")]
        values.append(float(value))
    return values


if __name__ == "__main__":
    main()
