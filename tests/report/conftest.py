"""A run directory as `cpool run` writes it: seven methods and a joint bound, three seeds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpool.metrics import AccuracyMatrix

# label, method, learning accuracy, loss a task, parameters, bytes a task, train s, predict s
METHODS: list[tuple[str, str, float, float, int, int, float, float]] = [
    ("L2P", "l2p", 0.90, 0.050, 28_160, 22_528, 41.0, 1.9),
    ("DualPrompt", "dualprompt", 0.92, 0.035, 51_200, 40_960, 38.5, 1.8),
    ("CODA-Prompt", "coda", 0.93, 0.030, 204_800, 163_840, 52.0, 2.1),
    ("PromptRidge", "prompt_ridge", 0.955, 0.010, 36_864, 240_000, 55.0, 2.4),
    ("RanPAC", "ranpac", 0.96, 0.009, 0, 320_000, 3.1, 1.1),
    ("NCM", "ncm", 0.90, 0.012, 0, 3_072, 0.4, 0.9),
    ("Linear head", "linear_head", 0.88, 0.110, 3_850, 3_080, 6.0, 0.9),
]
CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TASKS, SEEDS = 5, 3


def matrix_of(rng: np.random.Generator, top: float, loss: float) -> AccuracyMatrix:
    matrix = AccuracyMatrix(TASKS)
    for t in range(TASKS):
        for i in range(t + 1):
            value = top - 0.01 * i - loss * (t - i) ** 0.8 + rng.normal(0, 0.006)
            matrix.update(t, i, float(np.clip(value, 0, 1)), n=36 + 2 * i)
    return matrix


def joint_of(rng: np.random.Generator) -> AccuracyMatrix:
    matrix = AccuracyMatrix(TASKS)
    for i in range(TASKS):
        matrix.update(TASKS - 1, i, float(0.97 + rng.normal(0, 0.004)), n=36 + 2 * i)
    return matrix


def record(
    label: str, method: str, seed: int, matrix: AccuracyMatrix, **cost: Any
) -> dict[str, Any]:
    summary = matrix.summary()
    summary.pop("intransigence")
    prompts = method in ("l2p", "dualprompt", "coda", "prompt_ridge")
    return {
        "method": method,
        "label": label,
        "seed": seed,
        "prompts": prompts,
        "joint": method == "joint",
        "hyper_parameters": {"length": 5, "top_k": 3} if prompts else {},
        "train": {"epochs": 5, "batch_size": 64, "lr": 0.001, "optimizer": "adam"},
        "class_order": list(range(10)),
        "accuracy_matrix": matrix.to_json()["accuracy_matrix"],
        "test_sizes": matrix.to_json()["test_sizes"],
        **summary,
        "slots": 10 if prompts else None,
        "peak_memory_bytes": None,
        "flops_per_sample": 5_200_000,
        "threads": 1,
        **cost,
    }


def make_results() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    runs = []
    for label, method, top, loss, parameters, size, train, predict in METHODS:
        for seed in range(SEEDS):
            cost = {
                "trainable_parameters": parameters,
                "bytes_per_task": size,
                "total_bytes": size * TASKS,
                "train_seconds": train * (1 + 0.02 * seed),
                "predict_seconds": predict * 0.1,
            }
            runs.append(record(label, method, seed, matrix_of(rng, top, loss), **cost))
    for seed in range(SEEDS):
        cost = {"trainable_parameters": 480_000, "bytes_per_task": None, "total_bytes": 1_920_000}
        cost |= {"train_seconds": 61.0, "predict_seconds": None}
        runs.append(record("Joint", "joint", seed, joint_of(rng), **cost))
    return {
        "schema": 1,
        "name": "split_digits",
        "description": "Seven methods and a joint bound on five tasks of two digits.",
        "version": "0.1.0",
        "scenario": "class",
        "evaluated_on": "test",
        "complete": True,
        "backbone": {
            "name": "embedded",
            "kind": "vision",
            "fingerprint": "b" * 64,
            "pooling": "cls",
            "normalize": False,
            "layers": [-1],
            "parameters": 1_200_000,
            "hidden_size": 128,
            "dtype": "float32",
            "bytes": 4_800_000,
        },
        "stream": {
            "name": "split_digits",
            "scenario": "class",
            "tasks": TASKS,
            "seed": 0,
            "fingerprint": "d" * 64,
            "task_names": [f"digits {2 * t} and {2 * t + 1}" for t in range(TASKS)],
            "task_classes": [CLASSES[2 * t : 2 * t + 2] for t in range(TASKS)],
            "class_names": CLASSES,
            "train_sizes": [260, 255, 250, 262, 258],
            "test_sizes": [36 + 2 * i for i in range(TASKS)],
        },
        "train": {"epochs": 5, "batch_size": 64, "lr": 0.001, "optimizer": "adam"},
        "runs": runs,
    }


def make_diagnostics(seed: int, slots: int = 10, branches: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 3, (TASKS, 2))
    return {
        "branches": [
            {
                "name": "embedding" if b == 0 else f"layers {2 * b}-{2 * b + 1}",
                "site": "hidden" if b == 0 else "prefix",
                "slots": [
                    {
                        "id": f"{k:08x}",
                        "name": f"slot {k}",
                        "task": k * TASKS // slots,
                        "enabled": True,
                        "trained_steps": 20 * k,
                        "parent": None,
                    }
                    for k in range(slots)
                ],
                "usage": [
                    [int(40 * np.exp(-abs(k * TASKS / slots - t))) for k in range(slots)]
                    for t in range(TASKS)
                ],
                "keys": (
                    centres[np.arange(slots) * TASKS // slots] + rng.normal(0, 0.6, (slots, 2))
                )
                .round(3)
                .tolist()
                if b == 0
                else None,
            }
            for b in range(branches)
        ],
        "queries": [
            {"task": t, "xy": (centres[t] + rng.normal(0, 0.8, (60, 2))).round(3).tolist()}
            for t in range(TASKS)
        ],
    }


def make_run(folder: Path, diagnostics: bool = True) -> Path:
    """Write a whole run directory to `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(make_results(), indent=1))
    (folder / "config.toml").write_text(
        'seeds = [0, 1, 2]\n\n[backbone]\nname = "embedded"\n\n[stream]\nname = "split_digits"\n'
        'tasks = 5\n\n[[method]]\nname = "l2p"\n\n[train]\nepochs = 5\n'
    )
    environment = {
        "python": "3.11.7",
        "platform": "Linux x86_64",
        "cpu": "an eight-core processor",
        "threads": 1,
        "torch": "2.14.1",
        "transformers": "5.24.0",
        "numpy": "2.4.0",
        "sklearn": "1.9.0",
        "cpool": "0.1.0",
        "device": "cpu",
        "started": "2026-11-24T15:00:00+00:00",
        "seconds": 812.4,
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    if diagnostics:
        (folder / "diagnostics").mkdir(exist_ok=True)
        plan = [("L2P", 10, 1), ("DualPrompt", 5, 2), ("CODA-Prompt", 100, 1)]
        for label, slots, branches in plan:
            for seed in range(SEEDS):
                content = json.dumps(make_diagnostics(seed, slots, branches))
                (folder / "diagnostics" / f"{label}-seed{seed}.json").write_text(content)
    return folder


@pytest.fixture
def results() -> dict[str, Any]:
    return make_results()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture
def bare_run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "bare", diagnostics=False)
