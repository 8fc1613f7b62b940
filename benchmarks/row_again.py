"""Measure rows of committed results anew, where what one method does has changed, and no others.

    python -m benchmarks.row_again omniglot50 prompt_ridge       an experiment, and labels of it

The experiment is run with these rows alone, their search included, on one thread, in
runs/rows/<experiment>; then their runs and trials take the place of those in benchmarks/results,
and the pages are made. What the file says of these rows and of what all share must be what the
results were measured with, or nothing is done: other rows would have to be measured again, too. The
machine and the clock of the results stay those of the other rows; each run has the pace of the
frozen model in its own process.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks import prompt_ridge_page, tables
from benchmarks.models import check_made
from cpool._io import read_json, write_bytes, write_json
from cpool.cli.guard import terminable
from cpool.experiment.reading import read_experiment
from cpool.report import load_results, results_markdown

ROOT = Path(__file__).resolve().parent.parent
SAME = ("schema", "name", "version", "backbone", "stream", "train", "evaluated_on")


def only(config: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Return an experiment with some of its rows, without what a search chose for them.

    >>> rows = [{"label": "ncm"}, {"label": "l2p", "chosen": {"top_k": 2}}]
    >>> only({"name": "a", "method": rows, "not_run": {"ewc": "slow"}}, ["l2p"])
    {'name': 'a', 'method': [{'label': 'l2p'}]}
    """
    known = [row["label"] for row in config["method"]]
    unknown = sorted(set(labels) - set(known))
    if unknown:
        raise SystemExit(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
    asked = [row for row in config["method"] if row["label"] in labels]
    rows = [{key: value for key, value in row.items() if key != "chosen"} for row in asked]
    return {k: v for k, v in config.items() if k != "not_run"} | {"method": rows}


def replaced(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return results whose rows are those of `new` where it has them; each keeps its place."""
    wrong = [key for key in SAME if old.get(key) != new.get(key)]
    fresh = {(run["label"], run["seed"]): run for run in new["runs"]}
    missing = set(fresh) - {(run["label"], run["seed"]) for run in old["runs"]}
    if wrong or missing or not new["complete"]:
        what = ", ".join(wrong) or f"runs: {sorted(missing)}" if wrong or missing else "not whole"
        raise SystemExit(f"the rows cannot be put among the others: {what}")
    return {**old, "runs": [fresh.get((r["label"], r["seed"]), r) for r in old["runs"]]}


def replaced_trials(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return a search whose trials of the rows in `new` are those of `new`."""
    labels = {trial["label"] for trial in new["trials"]}
    kept = [trial for trial in old["trials"] if trial["label"] not in labels]
    return {**old, "trials": [*kept, *new["trials"]]}


def measure(name: str, labels: list[str], results: Path, work: Path) -> None:
    """Run some rows of an experiment, and put them into its committed results."""
    file, folder = ROOT / "benchmarks" / "experiments" / f"{name}.toml", results / name
    experiment = read_experiment(file)
    check_made(experiment)
    asked, had = (
        only({**e.resolved(), "threads": 1, "description": ""}, labels)
        for e in (experiment, read_experiment(folder / "config.toml"))
    )
    if asked != had:
        raise SystemExit(f"{file} is not what {folder} was measured with: run the whole of it")
    made = work / name
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    some = {**asked, "description": experiment.description}
    write_bytes(made / f"{name}.toml", tomli_w.dumps(some).encode())
    command = [sys.executable, "-m", "cpool", "run", str(made / f"{name}.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", str(made / "run")], env=environment, check=True)
    whole = replaced(read_json(folder / "results.json"), load_results(made / "run"))
    if experiment.search is not None:
        parts = [read_json(f / "search.json") for f in (folder, made / "run")]
        write_json(folder / "search.json", replaced_trials(*parts))
    write_json(folder / "results.json", whole)
    write_bytes(folder / "table.md", (results_markdown(whole) + "\n").encode())


def main() -> None:
    """Read the arguments, measure, and make the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the experiment")
    parser.add_argument("labels", nargs="+", help="of the rows")
    arguments = parser.parse_args()
    with terminable():
        measure(arguments.name, arguments.labels, tables.RESULTS, ROOT / "runs" / "rows")
    tables.write()
    prompt_ridge_page.write()


if __name__ == "__main__":
    main()
