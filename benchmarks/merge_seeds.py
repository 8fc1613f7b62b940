"""Join the results of one experiment whose seeds ran side by side, each in a folder of its own.

    cpool run benchmarks/experiments/clinc150.toml --seeds 0 --out runs/clinc150-0   # and 1, 2
    python -m benchmarks.merge_seeds runs/clinc150-{0,1,2} --out benchmarks/results/clinc150

Seeds run side by side give the same accuracies as in one run; their times are those of a machine
that was shared, and each run keeps the pace of the frozen model in its own process to compare with.
Everything but the seeds must agree, or nothing is written.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from cpool._io import read_json, write_bytes, write_json
from cpool.experiment.reading import read_experiment
from cpool.report import load_results, results_markdown

SAME = ("schema", "name", "version", "backbone", "train", "evaluated_on", "not_run")


def merge(folders: Sequence[Path]) -> dict[str, Any]:
    """Return one results document with the runs of all folders, by seed."""
    documents = [load_results(folder) for folder in folders]  # no dry runs
    configs = [read_experiment(folder / "config.toml").resolved() for folder in folders]
    first, base = documents[0], {k: v for k, v in configs[0].items() if k != "seeds"}
    for folder, document, config in zip(folders, documents, configs, strict=True):
        wrong = [key for key in SAME if document.get(key) != first.get(key)]
        if document["stream"]["fingerprint"] != first["stream"]["fingerprint"]:
            wrong.append("stream")
        if {k: v for k, v in config.items() if k != "seeds"} != base:
            wrong.append("config.toml")
        if wrong or not document["complete"]:
            raise SystemExit(f"{folder}: not finished, or differs in {', '.join(wrong) or 'runs'}")
    runs = [run for document in documents for run in document["runs"]]
    keys = [(run["label"], run["seed"]) for run in runs]
    if len(set(keys)) != len(keys):
        raise SystemExit("the same method and seed in two folders")
    seconds = sum(document["features_seconds"] for document in documents)
    ordered = sorted(runs, key=lambda run: run["seed"])
    return {**first, "features_seconds": seconds, "runs": ordered}


def write(folders: Sequence[Path], out: Path, search: Path | None = None) -> dict[str, Any]:
    """Merge `folders` into `out`, with config, environment, table and search; return the results.

    Args:
        folders: one a process, in the order of the seeds.
        out: the folder that is committed.
        search: the folder of the search that the processes share, if they do.
    """
    merged = merge(folders)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", merged)
    write_bytes(out / "table.md", (results_markdown(merged) + "\n").encode())
    clocks = [read_json(f / "environment.json") for f in (*folders, *([search] if search else []))]
    seconds = sum(clock["seconds"] or 0.0 for clock in clocks)
    write_json(out / "environment.json", {**clocks[0], "seconds": seconds})
    config = read_experiment(folders[0] / "config.toml").resolved()
    config["seeds"] = sorted({run["seed"] for run in merged["runs"]})
    write_bytes(out / "config.toml", tomli_w.dumps(config).encode())
    trials = (search or folders[0]) / "search.json"
    if trials.is_file():
        shutil.copyfile(trials, out / "search.json")
    return merged


def main() -> None:
    """Read the arguments, merge, write, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--search", type=Path, help="the folder of the search that all share")
    args = parser.parse_args()
    print(results_markdown(write(args.folders, args.out, args.search)))


if __name__ == "__main__":
    main()
