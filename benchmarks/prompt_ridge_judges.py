"""How should held-out rows judge a prompt? Validation data alone; no test example is looked at.

    python -m benchmarks.prompt_ridge_judges clinc150
    python -m benchmarks.prompt_ridge_judges cifar100
    python -m benchmarks.prompt_ridge_judges cifar100-base50 --prefix "judged, 3 epochs" --seeds 2
    python -m benchmarks.prompt_ridge_judges clinc150-few --seeds 6        20 rows a class
    python -m benchmarks.prompt_ridge_judges cifar100-few --seeds 6
                            write benchmarks/results/prompt-ridge-search/<data set>-judges.json

`PromptRidge(prompt="auto")` trains its prefix on four fifths of the first task, and keeps it if the
rest says that it pays. The rest can be asked in three ways:

- *trained rows*: heads fitted on the four fifths, errors on the rest. The prompt has seen the rows
  that its head is fitted on, and not those that the head is asked about.
- *left out*: the error of each row of the rest under a head fitted on the others of the rest. The
  prompt has seen none of them, as it has seen no row of a later task. λ is that of the method,
  which is small for so few rows.
- *left out, best λ*: the same, with and without the prompt at the λ that is best for it. This is
  what `cpool.rules.domains` does.

What they ought to say is what the prompt does to a whole stream: validation accuracy over all tasks
with it, less that of the frozen model's own features. A stopped run goes on.
"""

import argparse
import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.prompt_ridge_search import (
    HEAD,
    RESULTS,
    SETS,
    accuracies,
    chosen,
    features_of,
    kept_trials,
)
from cpool._io import write_json
from cpool.experiment.parts import open_backbone
from cpool.ridge import RELATIVE_RIDGES, RandomFeatures, leave_one_out, solve_primal
from cpool.seeding import split_rows

TRIED: dict[str, dict[str, Any]] = SETS | {
    "clinc150-few": {
        "backbone": SETS["clinc150"]["backbone"],
        "stream": SETS["clinc150"]["stream"] | {"train_per_class": 20},
    },
    "cifar100-few": {
        "backbone": SETS["cifar100"]["backbone"],
        "stream": SETS["cifar100"]["stream"] | {"train_per_class": 20},
    },
    "cifar100-base50": {
        "backbone": SETS["cifar100"]["backbone"],
        "stream": {
            "name": "few_shot",
            "of": "split_cifar100_small",
            "base_classes": 50,
            "ways": 10,
            "shots": 80,
        },
    },
}
THREE_EPOCHS = "judged, 3 epochs"
# The defaults of `PromptRidge`, but for 4,000 features, as in its experiments on images.
DEFAULT = HEAD | {"layers": 1.0, "gamma": 0.5}
RIDGE = 3e-3
WAYS = ("trained rows", "left out", "left out, best λ")


def features(data: dict[str, Any], seed: int) -> tuple[Tensor, Tensor]:
    """Return random features [n M] and one-hot labels [n C] of the first task's training rows."""
    first = torch.from_numpy(data["train_task"] == 0)
    phi = chosen(torch.from_numpy(data["train_x"])[first], DEFAULT["layers"])
    expand = RandomFeatures(
        phi.shape[1], DEFAULT["projection"], kind="cosine", gamma=DEFAULT["gamma"], seed=seed
    )
    _, columns = torch.from_numpy(data["train_y"])[first].unique(return_inverse=True)
    return expand(phi).double(), F.one_hot(columns).double()


def errors_of_trained(z: Tensor, y: Tensor, fit: Tensor, held: Tensor) -> Tensor:
    """Return ‖y − ŷ‖² of the held-out rows under a head fitted on the others."""
    gram = z[fit].T @ z[fit]
    ridge = RIDGE * float(gram.diagonal().mean())
    weight = solve_primal(gram, z[fit].T @ y[fit], ridge)
    return (y[held] - z[held] @ weight).square().sum(dim=1)


def errors_left_out(z: Tensor, y: Tensor, held: Tensor, ridges: tuple[float, ...]) -> Tensor:
    """Return ‖y − ŷ‖² of each held-out row under a head fitted on the other held-out rows."""
    return leave_one_out(z[held], y[held], ridges)[1].square().sum(dim=1)


def gain(bare: Tensor, prompted: Tensor) -> dict[str, float]:
    """Return how much less the error is with the prompt, a row, and the standard error of it."""
    less = bare - prompted
    return {
        "bare": float(bare.mean()),
        "prompted": float(prompted.mean()),
        "gain": float(less.mean()),
        "error": float(less.std()) / len(less) ** 0.5,
    }


def trial(bare: dict[str, Any], prompted: dict[str, Any], seed: int) -> dict[str, Any]:
    """Judge a prompt in all three ways, and say what it does to the whole stream."""
    pairs = [features(data, seed) for data in (bare, prompted)]
    fit, held = (torch.from_numpy(part) for part in split_rows(len(pairs[0][0]), 0.2, seed, 0))
    trained = [errors_of_trained(z, y, fit, held) for z, y in pairs]
    left_out = [errors_left_out(z, y, held, (RIDGE,)) for z, y in pairs]
    best = [errors_left_out(z, y, held, RELATIVE_RIDGES) for z, y in pairs]
    whole = [accuracies(data, DEFAULT, seed)[RIDGE] for data in (bare, prompted)]
    return {
        "held_out": len(held),
        **{way: gain(*errors) for way, errors in zip(WAYS, (trained, left_out, best), strict=True)},
        "none": whole[0],
        "prompt": whole[1],
    }


def main() -> None:
    """Judge the prompts of every seed and write each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_set", choices=list(TRIED))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prefix", choices=("judged", THREE_EPOCHS), default="judged")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    section = TRIED[arguments.data_set]
    out = RESULTS / f"{arguments.data_set}-judges.json"
    done = kept_trials(out, section)
    backbone = open_backbone(section["backbone"])
    for seed in range(arguments.seeds):
        if (arguments.prefix, seed) in {(t["prefix"], t["seed"]) for t in done}:
            continue
        source = features_of(arguments.data_set, section, backbone, seed)
        found = trial(source.get("none", seed), source.get(arguments.prefix, seed), seed)
        done.append({"prefix": arguments.prefix, "seed": seed, **found})
        write_json(out, {"settings": section, "validation": 0.2, "trials": done})
        ways = ", ".join(
            f"{way} {found[way]['gain']:+.4f} ± {found[way]['error']:.4f}" for way in WAYS
        )
        more = 100 * (found["prompt"]["accuracy"] - found["none"]["accuracy"])
        print(f"{arguments.prefix} seed {seed}: {ways}; whole stream {more:+.2f}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
