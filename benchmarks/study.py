"""Run the studies of benchmarks/studies, and make the page of what they found.

    python -m benchmarks.study benchmarks/studies/masking.toml    run one; stop and go on at will
    python -m benchmarks.study --jobs 2 FILE                      two variations at a time
    python -m benchmarks.study --again FILE                       measure all of it anew
    python -m benchmarks.study --page                             write the page and its plots
    python -m benchmarks.study --check                            status 1 when they are out of date

Each variation is an experiment in runs/studies/<name>/<k>, whose finished runs are not done again.
After each panel benchmarks/results/studies/<name>.json and the plot are written, with the panels
that are done; the page names those that are not. A panel that the file has with the same settings
and seeds is not measured again. What is finished of other panels lies beside that file, in
<name>/parts: with that, another machine goes on.
"""

import argparse
import multiprocessing
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks import parts
from benchmarks.models import check_made
from benchmarks.study_file import Cell, Study, read_study
from benchmarks.study_page import page
from benchmarks.study_plot import plot_svg
from benchmarks.study_results import panels_kept, points_of, study_document
from cpool._io import read_json, write_bytes, write_json
from cpool.cli.guard import terminable
from cpool.errors import CpoolError
from cpool.experiment.folder import RunFolder
from cpool.experiment.overrides import parse_seeds
from cpool.experiment.runner import Runner

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "studies"
WORK = ROOT / "runs" / "studies"
PAGE = ROOT / "docs" / "pages" / "studies.md"
MACHINE = ("cpu", "threads", "torch", "python")
ASSETS = ROOT / "docs" / "pages" / "assets"


def run_study(
    study: Study,
    work: Path,
    seeds: list[int] | None = None,
    on_panel: Callable[[dict[str, Any]], None] = lambda document: None,
    before: dict[str, Any] | None = None,
    beside: Path | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Run all variations that are not done yet, and return the study's document.

    Args:
        study: from `read_study`.
        work: folder of its experiments; those in it are gone on with.
        seeds: instead of those of the file.
        on_panel: called after each panel, with the document of the panels so far.
        before: the document of an earlier run, whose panels are taken from it.
        beside: where the finished runs of unfinished panels are kept, if anywhere.
        jobs: variations at a time, each in a process of its own.

    Raises:
        CpoolError: whatever will not work; all experiments are checked before the first is run.
    """
    every = study.cells(work, seeds)
    for cell in every:
        check_made(cell.experiment)
        Runner(cell.experiment, RunFolder(work / str(cell.number)), resume=True)
    kept = panels_kept(before, study, every[0].experiment.seeds)
    points: list[dict[str, Any]] = []
    streams: dict[str, Any] = {}
    seconds, document = 0.0, {}
    if before is not None and kept:
        points = [point for point in before["points"] if point["panel"] in kept]
        streams = {panel: facts for panel, facts in before["streams"].items() if panel in kept}
        seconds, document = before["seconds"], before
        print(f"taken from the results: {', '.join(sorted(kept)) or 'all'}", flush=True)
    cells = [cell for cell in every if cell.panel not in kept]
    taken = len(every) - len(cells)
    if jobs > 1:
        # Started anew, not copied: threads of torch do not outlive a fork.
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(_run, cells, *map(repeat, (work, len(every), beside))))
    for place, cell in enumerate(cells, 1):
        folder = RunFolder(work / str(cell.number))
        results = _run(cell, work, len(every), beside)
        keys = [(run["label"], run["seed"]) for run in results["runs"]]
        drawn = {key: folder.diagnostics(*key) for key in keys}
        found = {key: read_json(file) if file.is_file() else None for key, file in drawn.items()}
        points += points_of(study, cell.panel, cell.x, results["runs"], found)
        streams.setdefault(cell.panel, _stream(results))
        environment = read_json(folder.environment)
        seconds += environment["seconds"] or 0.0
        if place == len(cells) or cells[place].panel != cell.panel:
            document = study_document(
                study,
                points,
                version=environment["cpool"],
                seeds=list(cell.experiment.seeds),
                experiments=taken + place,
                streams=dict(streams),
                environment={key: environment[key] for key in MACHINE},
                seconds=seconds,
            )
            on_panel(document)
            if beside is not None:
                for done in (done for done in cells if done.panel == cell.panel):
                    shutil.rmtree(beside / "parts" / str(done.number), ignore_errors=True)
    if beside is not None:
        shutil.rmtree(beside, ignore_errors=True)
    return document


def _run(cell: Cell, work: Path, total: int, beside: Path | None) -> dict[str, Any]:
    number = f"[{cell.number + 1}/{total}]"
    folder = RunFolder(work / str(cell.number))
    runner = Runner(cell.experiment, folder, resume=True)
    left = len(runner.jobs) - runner.finished
    name = f"{number} {cell.panel} {cell.x}".rstrip()
    print(f"{name}: {left} of {len(runner.jobs)} runs", flush=True)

    def said(job: Any, record: dict[str, Any]) -> None:
        accuracy = 100 * record["average_accuracy"]
        print(f"    {number} {job.entry.label}, seed {job.seed}: {accuracy:.2f} %", flush=True)

    try:
        with terminable():
            return runner.run(said)
    finally:
        if beside is not None:
            parts.keep(folder.path, beside)


def _stream(results: dict[str, Any]) -> dict[str, Any]:
    stream, backbone = results["stream"], results["backbone"]
    return {
        "name": stream["name"],
        "tasks": stream["tasks"],
        "fingerprint": stream["fingerprint"],
        "test_samples": sum(stream["test_sizes"]),
        "backbone": backbone["name"],
        "backbone_fingerprint": backbone["fingerprint"],
    }


def read_all(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Read the results of every study, by name."""
    return [read_json(path) for path in sorted(folder.glob("*.json"))]


def plot_path(name: str, assets: Path = ASSETS) -> Path:
    """Return where the plot of a study lies."""
    return assets / f"study-{name}.svg"


def outputs(documents: Sequence[dict[str, Any]]) -> dict[Path, str]:
    """Return what the page and the plots must hold; nothing while no study is done."""
    if not documents:
        return {}
    plots = {plot_path(document["name"]): plot_svg(document) for document in documents}
    return {PAGE: page(documents), **plots}


def write() -> None:
    """Write the page and the plots, and say which."""
    for path, content in outputs(read_all()).items():
        write_bytes(path, content.encode())
        print(path.relative_to(ROOT))


def check() -> None:
    """Exit with status 1 when a file is not what the results give."""
    for path, content in outputs(read_all()).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            sys.exit(f"{path.relative_to(ROOT)} is out of date: python -m benchmarks.study --page")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a study, or write or check the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="benchmarks/studies/<name>.toml")
    parser.add_argument("--seeds", type=parse_seeds, help="instead of those of the file: 0,1,2")
    parser.add_argument("--jobs", type=int, default=1, help="variations at a time")
    parser.add_argument("--again", action="store_true", help="measure panels anew that are there")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the experiments")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder of the plots")
    parser.add_argument("--page", action="store_true", help="write the page from the results")
    parser.add_argument("--check", action="store_true", help="compare the page, write nothing")
    args = parser.parse_args(arguments)
    if not (args.files or args.page or args.check):
        parser.error("give the file of a study, --page or --check")
    try:
        for file in args.files:
            study = read_study(file)
            path = args.results / f"{study.name}.json"

            def keep(document: dict[str, Any], path: Path = path) -> None:
                whole = len(document["streams"]) == len(document["settings"]["panels"])
                there = read_json(path)["streams"] if path.is_file() else {}
                if not whole and len(there) > len(document["streams"]):
                    return  # it has these panels and more; the whole will replace it
                write_json(path, document)
                write_bytes(plot_path(document["name"], args.assets), plot_svg(document).encode())

            before = read_json(path) if path.is_file() and not args.again else None
            work, beside = args.work / study.name, args.results / study.name
            if not args.again:
                for cell in study.cells(work, args.seeds):
                    parts.restore(work / str(cell.number), beside)
            with terminable():
                run_study(study, work, args.seeds, keep, before, beside, args.jobs)
    except CpoolError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit("Stopped; what is finished is kept. Give the same command to go on.")
    if args.page:
        write()
    if args.check:
        check()


if __name__ == "__main__":
    main()
