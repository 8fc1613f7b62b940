"""What the methods of a stream answer when each query's task is told: the price of inferring it.

    python -m benchmarks.run_all language-stream      the runs, whose last checkpoints are read
    python -m benchmarks.told language-stream         minutes of one core; goes on where it stopped

Nothing is trained: the model that a class-incremental run ended with answers the test queries of
every task once more, told the task, so that the classes of that task alone compete, and its own
prompts answer where a task has some. Written beside the results, as told.json.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.run_all import ROOT
from cpool._io import read_json, write_json
from cpool.experiment.folder import RunFolder
from cpool.experiment.parts import open_backbone, open_stream
from cpool.experiment.reading import read_experiment
from cpool.learner import Learner

__all__ = ["told_accuracy"]

RUNS, RESULTS = ROOT / "runs" / "benchmarks", ROOT / "benchmarks" / "results"


def told_accuracy(learner: Learner, stream: Any) -> float:
    """Return the mean accuracy over the tasks of a stream, each of which is told."""
    return float(np.mean(learner.evaluate(stream, told=True)))


def judge(folder: Path, rows: list[dict[str, Any]], keep: Any) -> None:
    """Add a row for every finished run of a folder that has none yet.

    Args:
        folder: of one or more seeds, as `cpool run` left it.
        rows: to add to.
        keep: is called after each.
    """
    runs = RunFolder(folder)
    experiment = read_experiment(folder / "config.toml")
    torch.set_num_threads(experiment.threads or torch.get_num_threads())
    done = {(row["label"], row["seed"]) for row in rows}
    recorded = {(r["label"], r["seed"]): r for r in read_json(folder / "results.json")["runs"]}
    backbone = open_backbone(experiment.backbone)
    for entry in experiment.methods:
        for seed in experiment.seeds:
            if (entry.label, seed) in done or (entry.label, seed) not in recorded:
                continue
            stream = open_stream(experiment, seed, backbone)
            final = entry.final
            learner = Learner(final.method.build(backbone), final.train, seed=seed, quiet=True)
            learner.model.name_classes(stream.class_names)
            learner.resume(runs.checkpoint(entry.label, seed))
            inferred = recorded[entry.label, seed]["average_accuracy"]
            told = told_accuracy(learner, stream)
            rows.append({"label": entry.label, "seed": seed, "told": told, "inferred": inferred})
            print(f"{entry.label}, seed {seed}: {100 * inferred:.2f} %, told {100 * told:.2f} %")
            keep(rows)


def main() -> None:
    """Judge every seed of an experiment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of an experiment that benchmarks.run_all has run")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    out = args.results / args.name / "told.json"
    rows = read_json(out)["runs"] if out.is_file() else []

    def keep(found: list[dict[str, Any]]) -> None:
        write_json(out, {"schema": 1, "runs": found})

    for folder in sorted((args.runs / args.name).glob("seed*/")):
        judge(folder, rows, keep)


if __name__ == "__main__":
    main()
