"""What `cpool run` says: before, after each run, and at the end."""

import shlex
from pathlib import Path
from typing import Any

from cpool._version import __version__
from cpool.experiment.config import Experiment
from cpool.experiment.folder import RunFolder
from cpool.experiment.jobs import Job
from cpool.experiment.runner import Runner
from cpool.experiment.search import Trial

__all__ = [
    "chosen_lines",
    "closing",
    "finished_line",
    "opening",
    "settings",
    "suggestions",
    "trial_line",
]


def opening(runner: Runner) -> list[str]:
    """Return what is going to happen, in six lines; one more with a search."""
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
        *_search_line(runner),
        f"  seeds     {', '.join(map(str, experiment.seeds))} ({runs}{left})",
        f"  out       {runner.folder.path}",
    ]


def _search_line(runner: Runner) -> list[str]:
    search = runner.search
    if search is None:
        return []
    done = search.planned - len(search.todo)
    left = f", {done} of them done" if done else ""
    train, judged = search.head["train_samples"], search.head["validation_samples"]
    return [
        f"  search    {search.planned} trials, at most {search.plan.budget} a method{left}; each "
        f"{train:,} train, {judged:,} validation, {len(search.stream)} tasks"
    ]


def trial_line(runner: Runner, trial: Trial, record: dict[str, Any]) -> str:
    """Return the line about one finished trial."""
    width = max(len(entry.label) for entry in runner.experiment.methods)
    of = trial.entry.trials
    score = f"validation {_percent(record['accuracy'])} %"
    failed = f"  failed: {record['error']}" if record["error"] else ""
    return (
        f"trial {trial.number}/{of}  {trial.entry.label:<{width}}  {score}  "
        f"{record['seconds']:6.1f} s  {settings(record['settings'])}{failed}"
    )


def chosen_lines(runner: Runner) -> list[str]:
    """Return what the search chose, one line a method that was searched."""
    search, lines = runner.search, []
    for entry in runner.experiment.methods if search is not None else ():
        record = search.record(entry) if search is not None else None
        if record is None:
            continue
        score = f" (validation {_percent(record['validation_accuracy']).strip()} %)"
        known = score if record["trials"] else " (by the file)"
        lines.append(f"chosen  {entry.label}: {settings(record['chosen'])}{known}")
    return lines


def settings(values: dict[str, Any]) -> str:
    """Return settings for people.

    >>> settings({"train.lr": 0.01, "length": 5})
    'train.lr=0.01, length=5'
    """
    return ", ".join(f"{key}={value}" for key, value in values.items())


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


def closing(runner: Runner, file: Path) -> list[str]:
    """Return where the files lie, and three commands to try next."""
    folder, experiment = runner.folder, runner.experiment
    lines = ["", f"Results   {folder.results}"]
    lines += [f"Report    {folder.report}"] if folder.report.is_file() else []
    lines += [f"Models    {folder.path / 'checkpoints'}", "", "Next:"]
    return [*lines, *(f"  {command}" for command in suggestions(file, folder, experiment))]


def suggestions(file: Path, folder: RunFolder, experiment: Experiment) -> list[str]:
    """Return three commands that work on this run: look inside, vary, compare.

    What varies are the epochs; the seeds where all methods are closed-form and train none.
    """
    rows = [entry.final for entry in experiment.methods]
    first = max(rows, key=lambda e: (e.method.prompts, e.method.trains))
    checkpoint = folder.checkpoint(first.label, experiment.seeds[0])
    force: list[str] = []  # other seeds are another protocol
    if first.method.trains:
        change = ["--set", f"method.{first.label}.train.epochs={2 * first.train.epochs}"]
        other = folder.path.with_name(f"{folder.path.name}-longer")
    else:
        change = ["--seeds", str(max(experiment.seeds) + 1)]
        other, force = folder.path.with_name(f"{folder.path.name}-again"), ["--force"]
    return [
        shlex.join(["cpool", "inspect", str(checkpoint)]),
        shlex.join(["cpool", "run", str(file), *change, "--out", str(other)]),
        shlex.join(["cpool", "compare", *force, str(folder.path), str(other)]),
    ]
