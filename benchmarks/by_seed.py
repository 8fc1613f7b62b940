"""A measurement that is done seed by seed: written after each, and gone on with."""

import argparse
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from cpool import load_backbone
from cpool._io import read_json, write_json
from cpool.backbones import Backbone

__all__ = ["measure_seeds"]

MODEL = "build/smollm2-135m"


def measure_seeds(
    measure: Callable[[Backbone, int], list[dict[str, Any]]],
    seeds: int,
    out: Path,
    settings: Mapping[str, Any],
    about: str | None,
) -> None:
    """Measure the seeds that are not in the file yet, a thread each, and write after each.

    Args:
        measure: gives the rows of one seed, each with "seed"; of a module, since a process gets it.
        seeds: how many there are.
        out: the file, unless the command line names another.
        settings: what else is written beside the rows.
        about: the description of the command.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument(
        "--jobs", type=int, default=1, help="seeds at a time; 1 where seconds are measured"
    )
    args = parser.parse_args()
    said = {"model": args.model, "dtype": "float32", **settings}
    kept = read_json(args.out) if args.out.is_file() else {"settings": said, "rows": []}
    if kept["settings"] != said:
        raise SystemExit(f"{args.out} was measured with other settings: move it, or give --out")
    rows: list[dict[str, Any]] = kept["rows"]
    missing = [seed for seed in range(seeds) if all(row["seed"] != seed for row in rows)]
    # Started anew, not copied: threads of torch do not outlive a fork.
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(_one, measure, args.model, seed) for seed in missing]
        for done in as_completed(waiting):
            rows = sorted([*rows, *done.result()], key=lambda row: row["seed"])
            count = len({row["seed"] for row in rows})
            write_json(args.out, {"schema": 1, "settings": said, "seeds": count, "rows": rows})


def _one(
    measure: Callable[[Backbone, int], list[dict[str, Any]]], model: str, seed: int
) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    # Half precision is fast on some CPUs and slow on others; this is the same on all.
    return measure(load_backbone(model, dtype="float32"), seed)
