"""Measure what the rows of the study of hard and soft prompts cost, in its panels beside the first.

    python -m benchmarks.smollm2                  the model, once
    python -m benchmarks.panel_costs [--x 16]

A study keeps what its rows answer, and its runs lie beside others, so their seconds say little.
This gives its panels to benchmarks/speed/tuning.py, one after another, and writes
benchmarks/results/speed-tuning-panels.json after each. The first panel is of the data of
hard-vs-soft.toml, which that script measures by itself. One thread, about ten minutes a panel.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.study_file import read_study
from benchmarks.tables import RESULTS, ROOT
from cpool._io import read_json, write_json

__all__ = ["COSTS", "STUDY"]

STUDY = ROOT / "benchmarks" / "studies" / "hard_vs_soft.toml"
COSTS = RESULTS / "speed-tuning-panels.json"
TUNING = ROOT / "benchmarks" / "speed" / "tuning.py"


def main() -> None:
    """Measure the panels and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--x", type=int, default=16, help="the variation that is measured")
    parser.add_argument("--out", type=Path, default=COSTS)
    args = parser.parse_args()
    study = read_study(STUDY)
    chosen = [variation for variation in study.variations if variation.x == args.x]
    if not chosen:
        parser.error(f"--x {args.x} is none of {', '.join(str(v.x) for v in study.variations)}")
    panels: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        study.cells(Path(folder))
        for panel in study.panels[1:]:
            print(panel.x, file=sys.stderr)
            found = Path(folder) / "found.json"
            changes = [*panel.changes, *chosen[0].changes]
            command = [sys.executable, str(TUNING), "--experiment", f"{folder}/base.toml"]
            command += ["--no-peft", "--out", str(found)]
            command += [part for change in changes for part in ("--set", change)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            panels[str(panel.x)] = read_json(found)
            write_json(args.out, {"study": study.name, "x": args.x, "panels": panels})


if __name__ == "__main__":
    main()
