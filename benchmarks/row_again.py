"""Measure rows of committed results anew, or rows that they lack, and no others.

    python -m benchmarks.row_again omniglot50 prompt_ridge       an experiment, and labels of it

The experiment is run with these rows alone, their search included, on one thread, in
runs/rows/<experiment>; then their runs, trials and settings take the place of those in
benchmarks/results, and the pages are made. What the file says of what all rows share must be what
the results were measured with, or nothing is done: other rows would have to be measured again, too.
The machine and the clock of the results stay those of the other rows; each run has the pace of the
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
    """Return results with the rows of `new`: each in the place it had, those of no place last."""
    wrong = [key for key in SAME if old.get(key) != new.get(key)]
    fresh = {(run["label"], run["seed"]): run for run in new["runs"]}
    seeds = {run["seed"] for run in old["runs"]}
    other = {run["seed"] for run in new["runs"]} ^ seeds
    if wrong or other or not new["complete"]:
        what = ", ".join(wrong) or (f"seeds {sorted(other)}" if other else "not whole")
        raise SystemExit(f"the rows cannot be put among the others: {what}")
    runs = [fresh.pop((run["label"], run["seed"]), run) for run in old["runs"]]
    return {**old, "runs": [*runs, *fresh.values()]}


def replaced_trials(old: dict[str, Any], new: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Return a search whose trials of the rows `labels` are those of `new`, maybe none."""
    kept = [trial for trial in old["trials"] if trial["label"] not in labels]
    return {**old, "trials": [*kept, *new["trials"]]}


def replaced_rows(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return an experiment with the rows of `new`, in the places that they had, or last.

    >>> rows = [{"label": "ncm"}, {"label": "l2p", "top_k": 2}]
    >>> replaced_rows({"method": rows[::-1]}, {"method": [{"label": "l2p"}, {"label": "ewc"}]})
    {'method': [{'label': 'l2p'}, {'label': 'ncm'}, {'label': 'ewc'}]}
    """
    fresh = {row["label"]: row for row in new["method"]}
    rows = [fresh.pop(row["label"], row) for row in old["method"]]
    return {**old, "method": [*rows, *fresh.values()]}


def measure(name: str, labels: list[str], results: Path, work: Path) -> None:
    """Run some rows of an experiment, and put them into its committed results."""
    file, folder = ROOT / "benchmarks" / "experiments" / f"{name}.toml", results / name
    experiment = read_experiment(file)
    check_made(experiment)
    config = read_experiment(folder / "config.toml").resolved()
    asked = only({**experiment.resolved(), "threads": 1, "description": ""}, labels)
    had = only({**config, "threads": 1, "description": ""}, [])
    if {**asked, "method": []} != had:
        raise SystemExit(f"{file} is not what {folder} was measured with: run the whole of it")
    made = work / name
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    some = {**asked, "description": experiment.description}
    if not any("search" in row for row in some["method"]):
        some.pop("search", None)
    write_bytes(made / f"{name}.toml", tomli_w.dumps(some).encode())
    command = [sys.executable, "-m", "cpool", "run", str(made / f"{name}.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", str(made / "run")], env=environment, check=True)
    whole = replaced(read_json(folder / "results.json"), load_results(made / "run"))
    if experiment.search is not None:
        new = made / "run" / "search.json"
        trials = read_json(new) if new.is_file() else {"trials": []}  # none of them searches
        whole_search = replaced_trials(read_json(folder / "search.json"), trials, labels)
        write_json(folder / "search.json", whole_search)
    for record in (config, whole):  # a row that was left out for some reason is there now
        reasons = record.pop("not_run", None) or {}
        record["not_run"] = {k: why for k, why in reasons.items() if k not in labels}
    rows = replaced_rows(config, read_experiment(made / "run" / "config.toml").resolved())
    write_bytes(folder / "config.toml", tomli_w.dumps(rows).encode())
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
