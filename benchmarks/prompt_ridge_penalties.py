"""How should λ be chosen as tasks come? Validation data alone; no test example is looked at.

    python -m benchmarks.prompt_ridge_penalties clinc150 --seeds 2
    python -m benchmarks.prompt_ridge_penalties cifar100 --seeds 2
    python -m benchmarks.prompt_ridge_penalties cifar100-base50 --seeds 2
    python -m benchmarks.prompt_ridge_penalties clinc150-few --seeds 6        20 rows a class
    python -m benchmarks.prompt_ridge_penalties cifar100-few --seeds 6
                            write benchmarks/results/prompt-ridge-search/<data set>-penalties.json

The head of `PromptRidge` learns the frozen model's features of all layers task by task, with 4,000
random features, and λ

- *0.003*, as a share of the mean of the diagonal of G: the default before, from whole data sets;
- *newest task*: of the smallest squared error on a fifth of the newest task's rows, under a head
  fitted on its other rows, as RanPAC chooses (`ridge="auto"`);
- *left out, squared error*: of the smallest squared error of all rows so far, each left out of the
  fit in turn; only where rows are few, since it takes their eigenvectors;
- *left out*: with which most of a thousand of all rows so far are right, each left out of the fit
  (`ridge="left_out"`).

After each task the validation rows of all tasks so far are answered. A stopped run goes on.
"""

import argparse
import os
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.prompt_ridge_judges import DEFAULT, TRIED
from benchmarks.prompt_ridge_search import RESULTS, chosen, features_of, kept_trials
from cpool._io import write_json
from cpool.experiment.parts import open_backbone
from cpool.ridge import RidgeHead, leave_one_out
from cpool.ridge.left_out import SHARES

WAYS: dict[str, Any] = {
    "0.003": 3e-3,
    "newest task": "auto",
    "left out, squared error": 3e-3,  # set anew after each task
    "left out": "left_out",
}
FEW = 4000  # rows


def learn(data: dict[str, Any], way: str, seed: int) -> dict[str, Any]:
    """Return accuracy after each task, the share of λ that was chosen, and the seconds it took."""
    x, held_x = (chosen(torch.from_numpy(data[f"{s}_x"]), 1.0) for s in ("train", "validation"))
    y, held_y = (torch.from_numpy(data[f"{s}_y"]) for s in ("train", "validation"))
    task, held_task = (torch.from_numpy(data[f"{s}_task"]) for s in ("train", "validation"))
    head = RidgeHead(
        x.shape[1],
        projection=DEFAULT["projection"],
        ridge=WAYS[way],
        seed=seed,
        kind=DEFAULT["kind"],
        gamma=DEFAULT["gamma"],
        relative=True,
    )
    accuracies, shares, seconds = [], [], 0.0
    for number in range(int(task.max()) + 1):
        own, seen = task == number, held_task <= number
        started = time.perf_counter()
        head.begin_task(y[own].unique().tolist())
        head.fit(x[own], y[own])
        if way == "left out, squared error":
            _choose_by_squares(head)
        seconds += time.perf_counter() - started
        names = torch.tensor(head.classes)
        right = names[head(held_x[seen]).argmax(dim=1)] == held_y[seen]
        accuracies.append(float(right.float().mean()))
        shares.append(float(head.get_buffer("chosen")))
    return {"accuracies": accuracies, "shares": shares, "seconds": seconds}


def _choose_by_squares(head: RidgeHead) -> None:
    rows: Tensor = head.get_buffer("rows")
    targets = F.one_hot(head.get_buffer("row_columns"), len(head.classes)).to(rows)
    share, _ = leave_one_out(rows, targets, (*SHARES, 0.3, 1.0))
    head.get_buffer("chosen").fill_(share)
    head.solve()


def main() -> None:
    """Learn with every way and seed and write each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_set", choices=list(TRIED))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    section = TRIED[arguments.data_set]
    out = RESULTS / f"{arguments.data_set}-penalties.json"
    done = kept_trials(out, section)
    backbone = open_backbone(section["backbone"])
    for seed in range(arguments.seeds):
        missing = [way for way in WAYS if (way, seed) not in {(t["way"], t["seed"]) for t in done}]
        if not missing:
            continue
        data = features_of(arguments.data_set, section, backbone, seed).get("none", seed)
        for way in missing:
            if way == "left out, squared error" and len(data["train_y"]) >= FEW:
                continue
            found = learn(data, way, seed)
            done.append({"way": way, "seed": seed, **found})
            write_json(out, {"settings": section, "validation": 0.2, "trials": done})
            mean = sum(found["accuracies"]) / len(found["accuracies"])
            print(
                f"seed {seed} {way:24s} last {found['accuracies'][-1]:.4f}, mean over tasks "
                f"{mean:.4f}, λ at last {found['shares'][-1]:g}, {found['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
