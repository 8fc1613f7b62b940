"""What `cpool tune` and `cpool add` say about rows of prompt and completion."""

from math import exp
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from cpool.cli.console import print_table
from cpool.tuning import AddedCompletions, Tuned

__all__ = ["show_added", "show_tuned"]


def show_tuned(data: Path, out: Path, tuned: Tuned) -> None:
    """Print what was found in the data, and the comparison on held-out rows."""
    task = tuned.record.tasks[0]
    found = task.completions or {}
    typer.echo(f"{data}: {task.rows + task.held_out} rows; completions of {_lengths(found)}")
    typer.echo(f"learned from {task.rows} rows, measured on {task.held_out} held out")
    _say_cut(found)
    typer.echo("")
    print_table(_compared(tuned))
    typer.echo(
        "\nloss: of held-out completions, nats a token, the end included; perplexity: e^loss;"
        "\nexact: greedy completions that are right, but for white space around them."
    )
    best = min(tuned.record.compared, key=lambda row: row["loss"])
    kept = tuned.record.compared[-1]
    if best["loss"] < kept["loss"]:
        typer.echo(f"{best['row']} is ahead here; {kept['row']} is what was kept.")
    few = "  (few: a difference of some points says little)" if task.held_out < 100 else ""
    typer.echo(f"\nModel     {out}{few}")
    typer.echo(f'Next      cpool generate {out} "a prompt"')
    typer.echo(f"          cpool add {out} --data more.csv --task second")


def _lengths(found: dict[str, Any]) -> str:
    return (
        f"{found['shortest']} to {found['longest']} tokens, {found['mean']:.1f} on average, "
        "their end included"
    )


def _say_cut(found: dict[str, Any]) -> None:
    if found["cut"]:
        typer.echo(f"{found['cut']} prompts were cut to leave room for their completions")


def _table(first: str, headings: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _compared(tuned: Tuned) -> Table:
    headings = ("loss", "perplexity", "exact %", "trained", "bytes", "train s", "ms a text")
    table = _table("", headings)
    for row in tuned.record.compared:
        table.add_row(
            row["row"],
            f"{row['loss']:.3f}",
            f"{exp(row['loss']):.4g}",
            f"{100 * row['exact_match']:.1f}",
            f"{row['trained_parameters']:,}",
            f"{row['bytes']:,}",
            f"{row['train_seconds']:.1f}",
            f"{1000 * row['seconds_per_text']:.0f}",
        )
    return table


def show_added(task: str, tuned: Tuned, added: AddedCompletions) -> None:
    """Print what was learned, and that the older tasks did not move."""
    record = tuned.record.tasks[-1]
    found = record.completions or {}
    typer.echo(
        f"{task}: learned from {record.rows} rows; completions of {_lengths(found)}\n"
        f"loss {added.loss:.3f} (perplexity {exp(added.loss):.4g}), "
        f"{100 * added.exact_match:.1f} % exact on {record.held_out} held out"
    )
    _say_cut(found)
    typer.echo("")
    if added.before:
        print_table(_moved(added))
        typer.echo("")
    print_table(_routed(added))
    said = "not one loss changed" if not added.changed else f"{added.changed} losses changed"
    typer.echo(f"\nTold the task, {said} on the rows held out of the older tasks.")


def _moved(added: AddedCompletions) -> Table:
    table = _table("older task, loss", ("before", "after", "told before", "told after"))
    for name in added.before:
        values = (added.before, added.after, added.told_before, added.told_after)
        table.add_row(name, *(f"{value[name]:.3f}" for value in values))
    return table


def _routed(added: AddedCompletions) -> Table:
    """Return which task's prompt held-out rows get when nobody tells the task."""
    names = list(added.routed)
    table = _table("held-out rows that get the prompt of", tuple(names))
    for name, counts in added.routed.items():
        table.add_row(name, *(str(counts[other]) for other in names))
    return table
