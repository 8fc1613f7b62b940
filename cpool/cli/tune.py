"""`cpool tune`, `predict`, `add` and `generate`: a model of one's own texts from the shell."""

import sys
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from cpool.cli import completions
from cpool.cli.console import print_table
from cpool.cli.guard import terminable
from cpool.errors import ConfigError, DataError
from cpool.tuning import Added, AddedCompletions, Tuned, tune

__all__ = ["add_task", "generate_words", "predict_labels", "tune_model"]


def tune_model(data: Path, backbone: str, out: Path, options: dict[str, Any], quiet: bool) -> None:
    """Tune, and show what it was worth beside the hard prompt."""
    options = {**options, "template": _template(options.get("template"))}
    with terminable():
        tuned = tune(str(data), backbone, out, quiet=quiet, **options)
    if quiet:
        typer.echo(out)
        return
    if tuned.record.kind == "completions":
        completions.show_tuned(data, out, tuned)
        return
    task = tuned.record.tasks[0]
    names = tuned.record.labels
    shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    typer.echo(f"{data}: {len(names)} labels ({shown})")
    typer.echo(f"learned from {task.rows} rows, measured on {task.held_out} held out\n")
    print_table(_compared(tuned))
    best = max(tuned.record.compared, key=lambda row: row["accuracy"])
    kept = tuned.record.compared[-1]
    if best["accuracy"] > kept["accuracy"]:
        typer.echo(f"{best['row']} is ahead here; {kept['row']} is what was kept.")
    few = "  (few: a difference of some points says little)" if task.held_out < 100 else ""
    typer.echo(f"\nModel     {out}{few}")
    typer.echo(f'Next      cpool predict {out} "a text"')
    typer.echo(f"          cpool add {out} --data more.csv --task second")


def _template(given: str | None) -> str | Path | None:
    """Return the words of `--template`, or the path that stands behind its @."""
    file = given is not None and given.startswith("@") and "{{" not in given
    return Path(given[1:]) if given is not None and file else given


def _compared(tuned: Tuned) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in ("accuracy %", "trained", "bytes", "train s", "ms a text"):
        table.add_column(heading, justify="right")
    for row in tuned.record.compared:
        table.add_row(
            row["row"],
            f"{100 * row['accuracy']:.1f}",
            f"{row['trained_parameters']:,}",
            f"{row['bytes']:,}",
            f"{row['train_seconds']:.1f}",
            f"{1000 * row['seconds_per_text']:.0f}",
        )
    return table


def _texts(texts: list[str], file: Path | None) -> list[str]:
    """Return the texts given, those of a file, or those of standard input ("-"), one a line."""
    if texts and file is not None:
        raise ConfigError(
            expected="texts as arguments, or --file", got="both", remedy="Leave one of them out."
        )
    if texts and texts != ["-"]:
        return texts
    try:
        raw = sys.stdin.read() if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            expected="a file of texts in UTF-8, one a line",
            got=f"{file}: {error}",
            remedy="Check it.",
        ) from error
    # Not splitlines(): it also breaks at characters that a text may hold, such as U+2028.
    found = [line for line in raw.split("\n") if line.strip()]
    if not found:
        raise DataError(
            expected="a text as argument, --file, or texts on standard input, one a line",
            got="none",
            remedy='For example: cpool predict DIR "where is my parcel?"',
        )
    return found


def predict_labels(
    folder: Path, texts: list[str], file: Path | None, task: str | None, device: str | None
) -> None:
    """Print the label of each text, one a line."""
    rows = _texts(texts, file)
    for label in Tuned.load(folder, device=device).predict(rows, task):
        typer.echo(label)


def generate_words(
    folder: Path, texts: list[str], file: Path | None, options: dict[str, Any], device: str | None
) -> None:
    """Print what the language model adds to each text."""
    tokens = options.get("max_new_tokens")
    if tokens is not None and tokens < 1:
        raise ConfigError(
            expected="--tokens of at least 1", got=str(tokens), remedy="Ask for one word or more."
        )
    rows = _texts(texts, file)
    for words in Tuned.load(folder, device=device).generate(rows, **options):
        typer.echo(words.strip())


def add_task(
    folder: Path, data: Path, task: str, validation: float, device: str | None, quiet: bool
) -> None:
    """Add a task, and show that the older ones did not move."""
    with terminable():
        tuned = Tuned.load(folder, device=device, quiet=quiet)
        added = tuned.add(str(data), task, validation=validation)
    if quiet:
        return
    if isinstance(added, AddedCompletions):
        completions.show_added(task, tuned, added)
        return
    record = tuned.record.tasks[-1]
    typer.echo(
        f"{task}: learned from {record.rows} rows; {100 * added.accuracy:.1f} % on "
        f"{record.held_out} held out\n"
    )
    print_table(_moved(added))
    said = "not one answer changed" if not added.changed else f"{added.changed} answers changed"
    typer.echo(f"\nTold the task, {said} on the rows held out of the older tasks.")


def _moved(added: Added) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("older task, accuracy %")
    for heading in ("before", "after", "told before", "told after"):
        table.add_column(heading, justify="right")
    for name in added.before:
        values = (added.before, added.after, added.told_before, added.told_after)
        table.add_row(name, *(f"{100 * value[name]:.1f}" for value in values))
    return table
