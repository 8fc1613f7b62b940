"""The parts of an experiment that is not whole yet: what is finished, kept where results are."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import tomli_w

from cpool._io import read_json, write_bytes, write_json
from cpool.experiment.config import Experiment
from cpool.experiment.reading import read_experiment

__all__ = ["drop", "keep", "reopen", "restore"]

FILES = ("results.json", "config.toml", "environment.json", "search.json")


def keep(folder: Path, results: Path) -> None:
    """Copy what a process measured, without its checkpoints; nothing where it measured nothing.

    Args:
        folder: of the process.
        results: of its experiment or study.
    """
    if not any((folder / name).is_file() for name in ("results.json", "search.json")):
        return
    target = results / "parts" / folder.name
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    if (folder / "diagnostics").is_dir():  # a study may be about these
        shutil.copytree(folder / "diagnostics", target / "diagnostics", dirs_exist_ok=True)


def restore(folder: Path, results: Path) -> None:
    """Put back what `keep` copied, where the folder of a process is not there; else nothing."""
    source = results / "parts" / folder.name
    if source.is_dir() and not folder.exists():
        shutil.copytree(source, folder)


def reopen(folders: Sequence[Path], experiment: Experiment, results: Path) -> bool:
    """Divide whole results between the folders of their seeds, where methods were added since.

    So the runs that are there are not done again. An experiment with a search is left alone, since
    its trials are of one state of the code; and so is one whose file says what the results say,
    which is measured anew.

    Args:
        folders: one a seed, in the order of the file.
        experiment: as its file has it now.
        results: of the whole experiment.

    Returns:
        Whether they were divided.
    """
    config = results / "config.toml"
    if experiment.search is not None or not config.is_file() or any(f.exists() for f in folders):
        return False
    had, asked = read_experiment(config).resolved(), experiment.resolved()
    asked["threads"] = asked.get("threads") or 1  # what processes side by side are given
    old = {row["label"]: row for row in had.pop("method")}
    new = {row["label"]: row for row in asked.pop("method")}
    # A row that was not run, for a reason that was given, may be run now.
    had["not_run"] = {k: why for k, why in (had.get("not_run") or {}).items() if k not in new}
    asked["not_run"] = asked.get("not_run") or {}
    same = {**had, "description": ""} == {**asked, "description": ""}
    if not same or len(old) == len(new) or any(new.get(k) != row for k, row in old.items()):
        return False
    whole, clock = read_json(results / "results.json"), read_json(results / "environment.json")
    for folder, seed in zip(folders, experiment.seeds, strict=True):
        runs = [run for run in whole["runs"] if run["seed"] == seed]
        made = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        write_json(made / "results.json", {**whole, "runs": runs, "complete": False})
        seconds = (clock["seconds"] or 0.0) / len(folders)
        write_json(made / "environment.json", {**clock, "seconds": seconds})
        one = {**had, "seeds": [seed], "method": list(old.values())}
        write_bytes(made / "config.toml", tomli_w.dumps(one).encode())
        made.rename(folder)
    return True


def drop(results: Path) -> None:
    """Remove the parts of an experiment, whose results are whole now."""
    shutil.rmtree(results / "parts", ignore_errors=True)
