"""A measurement that is done seed by seed: written after each, and gone on with."""

import argparse
from collections.abc import Callable, Mapping
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
    """Measure the seeds that are not in the file yet, on one thread, and write after each.

    Args:
        measure: gives the rows of one seed, each with "seed".
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
    args = parser.parse_args()
    torch.set_num_threads(1)
    # Half precision is fast on some CPUs and slow on others; this is the same on all.
    backbone = load_backbone(args.model, dtype="float32")
    said = {"model": args.model, "dtype": "float32", **settings}
    kept = read_json(args.out) if args.out.is_file() else {"settings": said, "rows": []}
    if kept["settings"] != said:
        raise SystemExit(f"{args.out} was measured with other settings: move it, or give --out")
    rows: list[dict[str, Any]] = kept["rows"]
    for seed in range(seeds):
        if any(row["seed"] == seed for row in rows):
            continue
        rows += measure(backbone, seed)
        write_json(args.out, {"schema": 1, "settings": said, "seeds": seed + 1, "rows": rows})
