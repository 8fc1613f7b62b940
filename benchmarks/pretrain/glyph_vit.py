"""Train the small vision transformer that comes with cpool, on glyphs, digits left out.

    python -m benchmarks.pretrain.glyph_vit --out runs/glyph-vit

The task is to tell which glyph an image shows (a softmax over the classes of ``glyphs.py``, images
made by ``augment.py``, at first little changed, later much), once from the class token and once
from the mean of the patch tokens. The two classifiers are thrown away at the end.

Each step's images follow from the seed and the number of the step, so that a run that was cut off,
started again with the same command, goes on to the same weights as one that was not (same machine,
same number of threads).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from benchmarks.pretrain.augment import augment
from benchmarks.pretrain.glyphs import FONTS, GlyphClass, atlas, glyph_classes

SMOOTHING = 0.1
WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Recipe:
    """What determines the weights."""

    seed: int = 0
    steps: int = 8000
    batch: int = 64
    rate: float = 1e-3
    warmup: int = 60
    ramp: float = 0.25
    """Share of the steps after which the images are changed at full strength."""
    size: int = 32
    patch: int = 8
    width: int = 128
    depth: int = 5


@dataclass
class Progress:
    """How far a training is."""

    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)
    accuracies: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Training:
    """All that changes while training, and the drawings."""

    recipe: Recipe
    classes: list[GlyphClass]
    drawings: Tensor
    members: list[np.ndarray]
    model: ViTModel
    heads: nn.ModuleList
    """Classifiers of the class token and of the mean patch token."""
    optimizer: torch.optim.AdamW
    progress: Progress


def make_model(recipe: Recipe) -> ViTModel:
    """A vision transformer without pooler, its weights drawn from the seed."""
    torch.manual_seed(recipe.seed)
    config = ViTConfig(
        image_size=recipe.size,
        patch_size=recipe.patch,
        encoder_stride=recipe.patch,
        hidden_size=recipe.width,
        num_hidden_layers=recipe.depth,
        num_attention_heads=4,
        intermediate_size=4 * recipe.width,
        layer_norm_eps=1e-6,
    )
    model = ViTModel(config, add_pooling_layer=False)
    initialise(model)
    return model


def initialise(model: ViTModel) -> None:
    """Larger weights than a large transformer starts with: this one is narrow."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)
        elif parameter.ndim == 4:
            nn.init.trunc_normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif "embeddings" in name and parameter.ndim == 3:
            nn.init.trunc_normal_(parameter, std=0.3)


def make_optimizer(parameters: list[nn.Parameter], rate: float) -> torch.optim.AdamW:
    """AdamW; only matrices decay."""
    matrices = [p for p in parameters if p.ndim in (2, 4)]
    others = [p for p in parameters if p.ndim not in (2, 4)]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def start(recipe: Recipe) -> Training:
    """A training at its step 0."""
    classes = glyph_classes()
    drawings, labels = atlas(classes)
    members = [np.flatnonzero(labels == label) for label in range(len(classes))]
    model = make_model(recipe)
    heads = nn.ModuleList(nn.Linear(recipe.width, len(classes)) for _ in range(2))
    for head in heads:
        nn.init.trunc_normal_(head.weight, std=0.02)
    optimizer = make_optimizer([*model.parameters(), *heads.parameters()], recipe.rate)
    images = torch.from_numpy(drawings)
    return Training(recipe, classes, images, members, model, heads, optimizer, Progress())


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a half cosine down to 0."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * done))


def strength(recipe: Recipe, step: int) -> float:
    """How much the images of a step are changed, from 0 to 1."""
    return min(1.0, step / max(1.0, recipe.ramp * recipe.steps))


def sample(training: Training) -> tuple[Tensor, Tensor]:
    """The images and labels of a step: classes alike often, drawings of a class alike often."""
    recipe, step = training.recipe, training.progress.step
    choice = np.random.default_rng((recipe.seed, step))
    labels = choice.integers(len(training.classes), size=recipe.batch)
    drawings = [choice.choice(training.members[label]) for label in labels]
    rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    chosen = training.drawings[torch.tensor(np.array(drawings))]
    images = augment(chosen, recipe.size, strength(recipe, step), rng)
    return images, torch.from_numpy(labels)


def advance(training: Training) -> tuple[float, float]:
    """One step; returns the loss and the share of the batch that was recognised."""
    images, labels = sample(training)
    for group in training.optimizer.param_groups:
        group["lr"] = learning_rate(training.recipe, training.progress.step)
    tokens = training.model(images).last_hidden_state
    logits = training.heads[0](tokens[:, 0])
    loss = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
    others = training.heads[1](tokens[:, 1:].mean(1))
    loss = loss + F.cross_entropy(others, labels, label_smoothing=SMOOTHING)
    training.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
    training.optimizer.step()
    training.progress.step += 1
    return loss.item(), (logits.argmax(1) == labels).float().mean().item()


def named_parameters(training: Training) -> dict[str, nn.Parameter]:
    """All parameters by name, those of the classifiers among them."""
    named = {f"model.{name}": p for name, p in training.model.named_parameters()}
    return named | {f"heads.{name}": p for name, p in training.heads.named_parameters()}


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path, then move the file to its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    write(temporary)
    os.replace(temporary, path)


def save_state(training: Training, path: Path) -> None:
    """Weights and moments as safetensors; recipe and progress as JSON in its header."""
    tensors = {}
    for name, parameter in named_parameters(training).items():
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        for key, value in training.optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value
    header = {
        "recipe": json.dumps(asdict(training.recipe)),
        "progress": json.dumps(asdict(training.progress)),
    }
    write_atomically(path, lambda temporary: save_file(tensors, temporary, header))


def load_state(training: Training, path: Path) -> None:
    """Go on where a state was saved; refuses the state of another recipe."""
    with safe_open(path, "pt") as state:
        header = state.metadata()
        if json.loads(header["recipe"]) != asdict(training.recipe):
            raise SystemExit(f"{path} was saved by another recipe: {header['recipe']}. Remove it.")
        training.progress = Progress(**json.loads(header["progress"]))
        for name, parameter in named_parameters(training).items():
            parameter.data.copy_(state.get_tensor(f"weight/{name}"))
            training.optimizer.state[parameter] = {
                key: state.get_tensor(f"{key}/{name}") for key in ("step", "exp_avg", "exp_avg_sq")
            }


def report(training: Training) -> dict[str, object]:
    """What ``training.json`` holds."""
    drawn = {font for glyphs in training.classes for font, _ in glyphs.drawings}
    return {
        "recipe": asdict(training.recipe),
        "classes": len(training.classes),
        "characters": sum(len(glyphs.characters) for glyphs in training.classes),
        "drawings": len(training.drawings),
        "matplotlib": matplotlib.__version__,
        "fonts": {font: licence for font, licence in FONTS.items() if font in drawn},
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "threads": torch.get_num_threads(),
        **asdict(training.progress),
    }


def export(training: Training, out: Path) -> None:
    """Write the folder that ``transformers`` loads, and the training log."""
    out.mkdir(parents=True, exist_ok=True)
    training.model.config.architectures = ["ViTModel"]
    training.model.config.save_pretrained(out)
    tensors = {k: v.detach().contiguous() for k, v in training.model.state_dict().items()}
    write_atomically(
        out / "model.safetensors", lambda temporary: save_file(tensors, temporary, {"format": "pt"})
    )
    side = {"height": training.recipe.size, "width": training.recipe.size}
    ViTImageProcessor(size=side).save_pretrained(out)
    text = json.dumps(report(training), indent=1, ensure_ascii=False)
    write_atomically(out / "training.json", lambda temporary: temporary.write_text(text + "\n"))


def show(training: Training, loss: float, accuracy: float) -> None:
    """One line of progress, with the time left."""
    progress, steps = training.progress, training.recipe.steps
    left = progress.seconds / progress.step * (steps - progress.step)
    print(
        f"step {progress.step}/{steps}  loss {loss:.3f}  recognised {accuracy:.1%}"
        f"  {progress.seconds / 60:.1f} min, {left / 60:.1f} left",
        flush=True,
    )


def train(training: Training, state: Path, until: int, minutes: float, every: int) -> None:
    """Take steps until one number of them or a time is reached; save and show every so often."""
    begin, clock, cpu = time.monotonic(), time.monotonic(), time.process_time()
    loss = accuracy = 0.0
    count = 0
    while training.progress.step < until and time.monotonic() - begin < 60 * minutes:
        values = advance(training)
        loss, accuracy, count = loss + values[0], accuracy + values[1], count + 1
        if training.progress.step % every and training.progress.step < until:
            continue
        progress = training.progress
        progress.seconds += time.monotonic() - clock
        progress.cpu_seconds += time.process_time() - cpu
        clock, cpu = time.monotonic(), time.process_time()
        progress.losses.append((progress.step, round(loss / count, 4)))
        progress.accuracies.append((progress.step, round(accuracy / count, 4)))
        show(training, loss / count, accuracy / count)
        loss, accuracy, count = 0.0, 0.0, 0
        save_state(training, state)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument(
        "--state", type=Path, help="state file, from which a run goes on [OUT/state.safetensors]"
    )
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="length of the training")
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--stop-at", type=int, help="pause after this step; go on later")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="pause after this time; go on later"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=100, help="steps between two saved states")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training; when the last step is done, write the model."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    state = options.state or options.out / "state.safetensors"
    training = start(Recipe(seed=options.seed, steps=options.steps, batch=options.batch))
    print(f"{len(training.classes)} classes of glyphs, {len(training.drawings)} drawings")
    if state.exists():
        load_state(training, state)
    until = min(options.steps, options.stop_at or options.steps)
    train(training, state, until, options.minutes, options.every)
    if training.progress.step == options.steps:
        export(training, options.out)


if __name__ == "__main__":
    main()
