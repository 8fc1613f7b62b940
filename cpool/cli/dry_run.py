"""`cpool run --dry-run`: does an experiment start? On random weights and made-up data."""

import shlex
import tempfile
import time
from pathlib import Path

import typer

from cpool.cli.console import print_table
from cpool.cli.guard import terminable
from cpool.cli.run import Options
from cpool.cli.summary import opening
from cpool.device import make_accelerator
from cpool.errors import ConfigError
from cpool.experiment.dry_run import check_candidates, rehearsed
from cpool.experiment.folder import RunFolder
from cpool.experiment.overrides import parse_seeds
from cpool.experiment.reading import read_experiment
from cpool.experiment.runner import Runner
from cpool.experiment.stand_ins import assumed
from cpool.processes import Processes
from cpool.report import results_table
from cpool.report.page import write_report

__all__ = ["rehearse"]

_WARNING = "DRY RUN: random small weights and made-up data. All figures below mean nothing."


def rehearse(options: Options) -> None:
    """Do a dry run, and say what it shows and what it does not.

    Raises:
        CpoolError: what the real run would end with, as far as it shows without weights and data.
    """
    _check(options)
    seeds = None if options.seeds is None else parse_seeds(options.seeds)
    experiment = read_experiment(options.file, options.sets, seeds)
    started = time.perf_counter()
    with terminable(), tempfile.TemporaryDirectory(prefix="cpool-stand-ins-") as made:
        dry = rehearsed(experiment, Path(made))
        processes = Processes(make_accelerator(options.device, dry.precision))

        def say(text: str) -> None:
            if processes.writes and not options.quiet:  # of several processes, one speaks
                typer.echo(text)

        out = options.out or _place(processes)
        folder = RunFolder(out)
        runner = Runner(dry, folder, device=options.device)
        check_candidates(runner, experiment)
        for line in (_WARNING, *assumed(experiment), *opening(runner)):
            say(line)
        results = runner.run(lambda job, record: say(f"starts: {job.entry.label}"))
    if not folder.writes:
        return
    write_report(folder.path)
    if options.quiet:
        typer.echo(folder.results)
        return
    say("")
    print_table(results_table(results))
    said = ["cpool", "run", str(options.file)]
    for change in options.sets:
        said += ["--set", change]
    seconds = time.perf_counter() - started
    say(f"\nThe experiment starts ({seconds:.0f} s). What was written means nothing: {out}")
    say(f"The real run:\n  {shlex.join(said)}")


def _place(processes: Processes) -> Path:
    """Return a folder for what is written, the same one in all processes."""
    places = [str(Path(tempfile.gettempdir()) / f"cpool-dry-run-{time.time_ns()}")]
    if processes.count > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(places)  # of the first process
    return Path(places[0])


def _check(options: Options) -> None:
    """Refuse what needs a real run."""
    given = {
        "--resume": options.resume,
        "--search-only": options.search_only,
        "--search-from": options.search_from is not None,
    }
    given["--ray"] = bool(getattr(options, "ray", False))
    wrong = [name for name, there in given.items() if there]
    if wrong:
        raise ConfigError(
            expected="--dry-run without options that go on with a run or a search",
            got=", ".join(wrong),
            remedy="Leave one of them out: a dry run starts and ends by itself.",
        )
