"""`cpool run`: says what it will do, does it, and says what came out."""

import contextlib
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import typer

from cpool.cli.console import print_table
from cpool.cli.guard import terminable
from cpool.cli.summary import chosen_lines, closing, finished_line, opening, trial_line
from cpool.device import make_accelerator
from cpool.errors import ConfigError
from cpool.experiment.folder import RunFolder
from cpool.experiment.overrides import parse_seeds
from cpool.experiment.reading import read_experiment
from cpool.experiment.runner import Runner
from cpool.experiment.spread import Spread
from cpool.processes import Processes
from cpool.progress import Progress
from cpool.report import results_table

__all__ = ["Options", "run_experiment"]


@dataclass(frozen=True)
class Options:
    """What the user typed after `cpool run`."""

    file: Path
    out: Path | None
    seeds: str | None
    sets: tuple[str, ...]
    device: str | None
    resume: bool
    quiet: bool
    search_only: bool = False
    search_from: Path | None = None
    ray: bool = False

    def command(self) -> str:
        """Return the command that goes on with this run."""
        words = ["cpool", "run", str(self.file)]
        words += ["--out", str(self.out)] if self.out is not None else []
        words += ["--seeds", self.seeds] if self.seeds is not None else []
        for change in self.sets:
            words += ["--set", change]
        words += ["--device", self.device] if self.device is not None else []
        words += ["--ray"] if self.ray else []
        words += ["--search-only"] if self.search_only else []
        words += ["--search-from", str(self.search_from)] if self.search_from is not None else []
        return shlex.join([*words, *(["--quiet"] if self.quiet else []), "--resume"])


class _Voice:
    """Lines for people on stdout, above the bars where there are some."""

    def __init__(self, quiet: bool, progress: Progress) -> None:
        self.quiet, self.progress = quiet, progress
        # Taken before bars open, since these put themselves in the place of sys.stdout.
        self.stdout = sys.stdout

    def say(self, text: str = "") -> None:
        """Print a line."""
        if self.quiet:
            return
        if self.progress.shown and self.stdout.isatty():
            print(text)  # one terminal for both: only the bars know where the cursor is
        else:
            print(text, file=self.stdout, flush=True)


def run_experiment(options: Options) -> None:
    """Run an experiment and print what the user needs to know.

    Raises:
        CpoolError: a fault in the file, the data, the backbone or the folder.
    """
    seeds = None if options.seeds is None else parse_seeds(options.seeds)
    experiment = read_experiment(options.file, options.sets, seeds)
    _check_search(options, experiment.search is not None)
    if options.ray:
        _check_alone(Processes(make_accelerator(options.device, experiment.precision)).count)
    folder = RunFolder(options.out or Path("runs") / experiment.name)
    progress = Progress(options.quiet)
    voice = _Voice(options.quiet, progress)
    with terminable(), contextlib.closing(folder):
        runner = Runner(
            experiment,
            folder,
            device=options.device,
            resume=options.resume,
            progress=progress,
            trials_from=options.search_from,
        )
        voice.quiet |= not folder.writes  # of several processes, one speaks
        work = Spread(runner, device=options.device) if options.ray else runner
        for line in opening(runner):
            voice.say(line)
        try:
            work.tune(lambda trial, record: voice.say(trial_line(runner, trial, record)))
            for line in chosen_lines(runner):
                voice.say(line)
            if options.search_only:
                voice.say(f"Run it    cpool run {shlex.quote(str(folder.chosen))}")
                return typer.echo(folder.search)
            results = work.run(lambda job, record: voice.say(finished_line(runner, job, record)))
        except KeyboardInterrupt:
            progress.close()
            typer.echo(_stopped(runner, options), err=True)
            raise
    if not folder.writes:
        return
    _report(folder, voice)
    if options.quiet:
        typer.echo(folder.results)
        return
    voice.say()
    print_table(results_table(results))
    for line in closing(runner, options.file):
        voice.say(line)


def _check_search(options: Options, searches: bool) -> None:
    if (options.search_only or options.search_from is not None) and not searches:
        raise ConfigError(
            expected=f"a [search] in {options.file} for --search-only or --search-from",
            got="none",
            remedy="Leave the option out, or add a [search] and a [method.search].",
        )


def _check_alone(count: int) -> None:
    """Refuse ray in several processes: each would start jobs, and wait for the others for ever."""
    if count > 1:
        raise ConfigError(
            expected="one process for --ray, which starts workers by itself",
            got=f"{count} processes",
            remedy="Leave out --ray, or the launcher (torchrun, accelerate launch).",
        )


def _stopped(runner: Runner, options: Options) -> str:
    done = f"{runner.finished} of {len(runner.jobs)} runs are finished"
    if runner.search is not None and runner.search.todo:
        left = runner.search.planned - len(runner.search.todo)
        done = f"{left} of {runner.search.planned} trials are finished"
    return f"\nStopped; {done} and kept. Go on with:\n  {options.command()}"


def _report(folder: RunFolder, voice: _Voice) -> None:
    """Write report.html; a run is not lost when its page cannot be drawn."""
    try:
        from cpool.report.page import write_report

        write_report(folder.path)
    except Exception as error:
        typer.echo(f"cpool: no report.html: {type(error).__name__}: {error}", err=True)
