"""Try ideas for the head of PromptRidge on validation data, three seeds; no test example is seen.

    python -m benchmarks.prompt_ridge_ideas clinc150
    python -m benchmarks.prompt_ridge_ideas cifar100
    python -m benchmarks.prompt_ridge_ideas banking77 --only share
                            write benchmarks/results/prompt-ridge-search/<data set>-ideas.json

The frozen model's own features of all layers (`prompt="none"`), 4,000 features, a fifth of the
training data held out. The best value of each idea's knob is taken, which favours every idea over
what is there by as much. A stopped run goes on. About 15 minutes a data set on one core. BANKING77
is here to explain its table, where several layers hurt; no default is chosen on it.
"""

import argparse
import os
import time

import torch

from benchmarks.prompt_ridge_search import RESULTS, SETS, features_of, kept_trials
from benchmarks.ridge_ideas import IDEAS, Rows
from cpool._io import write_json
from cpool.experiment.parts import open_backbone

TRIED = SETS | {
    "banking77": {
        "backbone": SETS["clinc150"]["backbone"],
        "stream": {"name": "banking77", "tasks": 7, "train_per_class": 20},
    }
}


def scores(rows: Rows, logits: torch.Tensor) -> dict[str, float]:
    """Return accuracy over all classes, that of the task, and that within the right task."""
    answers, owner = logits.argmax(dim=1), rows.task_of
    own = logits.masked_fill(owner[None, :] != rows.held_task[:, None], -torch.inf).argmax(dim=1)
    return {
        "accuracy": float((answers == rows.held_y).float().mean()),
        "right_task": float((owner[answers] == rows.held_task).float().mean()),
        "within_task": float((own == rows.held_y).float().mean()),
    }


def main() -> None:
    """Try every idea with every seed and write each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_set", choices=list(TRIED))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="ideas whose name has this word")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    section = TRIED[arguments.data_set]
    out = RESULTS / f"{arguments.data_set}-ideas.json"
    done = kept_trials(out, section)
    backbone = open_backbone(section["backbone"])
    for seed in range(arguments.seeds):
        missing = [
            idea
            for idea in IDEAS
            if arguments.only in idea and (idea, seed) not in {(t["idea"], t["seed"]) for t in done}
        ]
        if not missing:
            continue
        data = features_of(arguments.data_set, section, backbone, seed).get("none", seed)
        rows = Rows(
            *(
                torch.from_numpy(data[f"{split}_{part}"])
                for split in ("train", "validation")
                for part in ("x", "y", "task")
            )
        )
        for idea in missing:
            started = time.perf_counter()
            found = {knob: scores(rows, logits) for knob, logits in IDEAS[idea](rows, seed)}
            best = max(found, key=lambda knob: found[knob]["accuracy"])
            seconds = time.perf_counter() - started
            done.append({"idea": idea, "seed": seed, "best": best, "found": found})
            write_json(out, {"settings": section, "validation": 0.2, "trials": done})
            print(
                f"seed {seed} {idea:52s} {best:12s} {found[best]['accuracy']:.4f} "
                f"(task {found[best]['right_task']:.4f}, within "
                f"{found[best]['within_task']:.4f}) {seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
