"""`cpool run`: says what it will do, does it, and says what came out."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from cpool._version import __version__
from cpool.cli.console import print_table
from cpool.cli.guard import terminable
from cpool.errors import CpoolError
from cpool.experiment.config import Experiment, read_experiment
from cpool.experiment.folder import RunFolder
from cpool.experiment.overrides import parse_seeds
from cpool.experiment.runner import Job, Runner
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

    def command(self) -> str:
        """Return the command that goes on with this run."""
        words = ["cpool", "run", str(self.file)]
        words += ["--out", str(self.out)] if self.out is not None else []
        words += ["--seeds", self.seeds] if self.seeds is not None else []
        for change in self.sets:
            words += ["--set", change]
        words += ["--device", self.device] if self.device is not None else []
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
    folder = RunFolder(options.out or Path("runs") / experiment.name)
    progress = Progress(options.quiet)
    voice = _Voice(options.quiet, progress)
    with terminable():
        runner = Runner(
            experiment, folder, device=options.device, resume=options.resume, progress=progress
        )
        for line in opening(runner):
            voice.say(line)
        try:
            results = runner.run(lambda job, record: voice.say(finished_line(runner, job, record)))
        except KeyboardInterrupt:
            typer.echo(_stopped(runner, options), err=True)
            raise
    _report(folder, voice)
    if options.quiet:
        typer.echo(folder.results)
        return
    voice.say()
    print_table(results_table(results))
    for line in closing(runner, options):
        voice.say(line)


def opening(runner: Runner) -> list[str]:
    """Return what is going to happen, in six lines."""
    experiment, stream, spec = runner.experiment, runner.stream, runner.backbone.spec()
    what = f": {experiment.description}" if experiment.description else ""
    classes = sorted({len(task.classes) for task in stream})
    many = "–".join(str(n) for n in sorted({classes[0], classes[-1]}))
    train, test = (sum(len(getattr(t, s)) for t in stream) for s in ("train", "test"))
    split = "test" if experiment.evaluate == "test" else "validation"
    runs = f"{len(runner.jobs)} runs" if len(runner.jobs) > 1 else "1 run"
    left = f", {runner.finished} of them done" if runner.finished else ""
    return [
        f"cpool {__version__} · {experiment.name}{what}",
        f"  backbone  {spec['name']} ({spec['family']}, {spec['parameters'] / 1e6:.1f} M "
        f"parameters of width {spec['hidden_size']}, frozen, on {runner.accelerator.device})",
        f"  stream    {stream.name}: {len(stream)} tasks × {many} classes, "
        f"{stream.scenario}-incremental; {train:,} train, {test:,} {split}",
        f"  methods   {', '.join(entry.label for entry in experiment.methods)}",
        f"  seeds     {', '.join(map(str, experiment.seeds))} ({runs}{left})",
        f"  out       {runner.folder.path}",
    ]


def finished_line(runner: Runner, job: Job, record: dict[str, Any]) -> str:
    """Return the line about one finished run."""
    total, width = len(runner.jobs), max(len(e.label) for e in runner.experiment.methods)
    seconds = record["train_seconds"] + (record["predict_seconds"] or 0.0)
    accuracy, forgotten = (_percent(record[k]) for k in ("average_accuracy", "forgetting"))
    return (
        f"[{job.number:>{len(str(total))}}/{total}] {job.entry.label:<{width}}  seed {job.seed}  "
        f"accuracy {accuracy} %  forgetting {forgotten}  {seconds:6.1f} s"
    )


def _percent(value: float | None) -> str:
    return "    —" if value is None else f"{100 * value:5.2f}"


def _stopped(runner: Runner, options: Options) -> str:
    done = f"{runner.finished} of {len(runner.jobs)} runs are finished"
    return f"\nStopped; {done} and kept. Go on with:\n  {options.command()}"


def _report(folder: RunFolder, voice: _Voice) -> None:
    """Write report.html; a run is not lost when its page cannot be drawn."""
    try:
        from cpool.report.page import write_report

        write_report(folder.path)
    except (CpoolError, ImportError) as error:
        typer.echo(f"cpool: no report.html: {error}", err=True)


def closing(runner: Runner, options: Options) -> list[str]:
    """Return where the files lie, and three commands to try next."""
    folder, experiment = runner.folder, runner.experiment
    lines = ["", f"Results   {folder.results}"]
    lines += [f"Report    {folder.report}"] if folder.report.is_file() else []
    lines += [f"Models    {folder.path / 'checkpoints'}", "", "Next:"]
    return [*lines, *(f"  {command}" for command in suggestions(options.file, folder, experiment))]


def suggestions(file: Path, folder: RunFolder, experiment: Experiment) -> list[str]:
    """Return three commands that work on this run: look inside, vary, compare."""
    prompted = [e for e in experiment.methods if e.method.prompts] or list(experiment.methods)
    first = prompted[0]
    checkpoint = folder.checkpoint(first.label, experiment.seeds[0])
    epochs = f"method.{first.label}.train.epochs={2 * first.train.epochs}"
    other = folder.path.with_name(f"{folder.path.name}-longer")
    return [
        shlex.join(["cpool", "inspect", str(checkpoint)]),
        shlex.join(["cpool", "run", str(file), "--set", epochs, "--out", str(other)]),
        shlex.join(["cpool", "compare", str(folder.path), str(other)]),
    ]
