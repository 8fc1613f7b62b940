"""The parts of an experiment that is not whole yet: what is finished, kept where results are."""

import shutil
from pathlib import Path

__all__ = ["drop", "keep", "restore"]

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


def drop(results: Path) -> None:
    """Remove the parts of an experiment, whose results are whole now."""
    shutil.rmtree(results / "parts", ignore_errors=True)
