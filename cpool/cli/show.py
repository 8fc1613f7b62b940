"""`cpool compare`, `cpool report` and `cpool list`: reading and printing, no work."""

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.text import Text

from cpool.cli.console import print_table
from cpool.errors import CheckpointError, DataError

__all__ = ["make_report", "show_comparison", "show_list"]


def show_comparison(paths: Sequence[Path], force: bool = False) -> None:
    """Print one table of several runs of one protocol.

    Runs of one name get that of their folder instead.

    Args:
        paths: files, or folders of runs.
        force: show runs of different protocols all the same; the table then says what differs.

    Raises:
        CheckpointError: no results in one of the paths.
        DataError: a file that is no results.json, or runs of different protocols without `force`.
    """
    from cpool.report import load_results, results_table
    from cpool.report.protocol import differences

    loaded = [load_results(path) for path in paths]
    names = [results.get("name") for results in loaded]
    for path, results in zip(paths, loaded, strict=True):
        if names.count(results.get("name")) > 1:
            results["name"] = _place(path)
    found = differences(loaded)
    said = [difference.sentence([str(path) for path in paths]) for difference in found]
    if said and not force:
        raise DataError(
            expected="runs of one protocol: the same data, backbone, tasks, seeds and search",
            got="different ones:\n  " + "\n  ".join(said),
            remedy="Run them alike (again, what a file does not record), or add --force to see the "
            "table with a warning.",
        )
    table = results_table(loaded)
    if said:
        warning = "\n".join(["Warning: --force; these differ:", *said])
        table.caption = Text.assemble(table.caption or "", "\n", warning)
    print_table(table)


def _place(path: Path) -> str:
    """Return the name of a run's folder, or that of a file which was named otherwise."""
    path = path.resolve()
    return path.parent.name if path.name == "results.json" else path.name


def make_report(run_dir: Path, out: Path | None) -> None:
    """Write the page of a run and print its path.

    Raises:
        CheckpointError: no results there, or the page cannot be written.
    """
    from cpool.report.page import write_report

    if not run_dir.is_dir():
        raise CheckpointError(
            expected=f"a run directory {run_dir}",
            got="a file" if run_dir.exists() else "nothing there",
            remedy="Name the folder that `cpool run` wrote, such as runs/quickstart.",
        )
    typer.echo(write_report(run_dir, out))


def show_list(kind: str) -> None:
    """Print names and one line about each."""
    rows = _rows(kind)
    width = max(len(name) for name, _ in rows)
    for name, about in rows:
        typer.echo(f"{name:<{width}}  {about}".rstrip())


def _rows(kind: str) -> list[tuple[str, str]]:
    if kind == "methods":
        from cpool.methods import METHODS

        return [(name, method.summary) for name, method in sorted(METHODS.items())]
    if kind == "backbones":
        from cpool.backbones import BACKBONES

        named = [(name, about) for name, about in BACKBONES.items()]
        return [*named, ("<hub id or folder>", "any checkpoint of one of these kinds")]
    if kind == "streams":
        from cpool.streams.registry import STREAMS

        return [
            (name, f"{info.summary}; needs {info.needs}") for name, info in sorted(STREAMS.items())
        ]
    if kind == "policies":
        from cpool.policies import POLICIES

        return [(name, _first_line(policy)) for name, policy in sorted(POLICIES.items())]
    from cpool.metrics import METRICS

    return sorted(METRICS.items())


def _first_line(documented: type) -> str:
    doc = (documented.__doc__ or "").strip()
    return doc.splitlines()[0] if doc else ""
