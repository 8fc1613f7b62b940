"""The commands, their options, and their help."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cpool._version import __version__
from cpool.cli import texts
from cpool.cli.guard import guarded
from cpool.errors import unknown

__all__ = ["app", "main"]

app = typer.Typer(
    name="cpool",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # An unexpected error shows Python's own traceback, without the values of all variables.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


KINDS = ("methods", "backbones", "streams", "policies", "metrics")


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"cpool {__version__}")
        raise typer.Exit
    return asked


@app.callback(epilog=texts.TOP)
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Continual learning with pools of soft prompts on frozen Hugging Face models."""


@app.command(epilog=texts.RUN)
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The experiment.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where results go.  [default: runs/<experiment name>]"),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,2", help="Seeds, instead of the file's.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of the file; can be repeated. The value is TOML; a method is "
            "addressed by its label.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="D", help="cpu, cuda, cuda:1, …; found by default.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is in the output folder.")
    ] = False,
    search_only: Annotated[
        bool, typer.Option("--search-only", help="Do the trials of [search] and no run.")
    ] = False,
    search_from: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Take the trials of this search.json, or its folder."),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Do trials and runs side by side on a ray cluster (extra ray)."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="See if it starts: random weights, made-up data, no figures."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print only errors and the path of results.json.")
    ] = False,
) -> None:
    """Train and evaluate every method of an experiment with every seed."""
    with guarded():
        from cpool.cli.run import Options, run_experiment

        start = run_experiment
        if dry_run:
            from cpool.cli.dry_run import rehearse as start
        start(
            Options(
                file,
                out,
                seeds,
                tuple(set_ or ()),
                device,
                resume,
                quiet,
                search_only,
                search_from,
                ray,
            )
        )


@app.command(epilog=texts.COMPARE)
def compare(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS.json…", help="Files, or folders of runs.")
    ],
    force: Annotated[
        bool,
        typer.Option("--force", help="Show the table although the runs do not compare."),
    ] = False,
) -> None:
    """Show one table of several runs of one protocol, one row a run and label."""
    with guarded():
        from cpool.cli.show import show_comparison

        show_comparison(results, force)


@app.command(epilog=texts.REPORT)
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="What `cpool run` wrote.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page.  [default: RUN_DIR/report.html]"),
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run."""
    with guarded():
        from cpool.cli.show import make_report

        make_report(run_dir, out)


@app.command(epilog=texts.INSPECT)
def inspect(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A folder with a manifest.json.")
    ],
) -> None:
    """Show slots, keys, norms, usage and provenance of a checkpoint, and check its files."""
    with guarded():
        from cpool.cli.inspect import show_checkpoint

        show_checkpoint(checkpoint)


Backbone = Annotated[str, typer.Option(metavar="NAME", help="A hub id or a folder.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What `cpool tune` wrote.")]
Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT…", help="Texts; else --file or standard input (-)."),
]
Lines = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Texts, one a line.")]
Device = Annotated[str | None, typer.Option(metavar="D", help="cpu, cuda, …; found by default.")]
Told = Annotated[str | None, typer.Option(metavar="NAME", help="The task they are of, if known.")]
Share = Annotated[float, typer.Option(metavar="SHARE", help="Of the rows, held out.")]
Rows = Annotated[
    Path,
    typer.Option(metavar="FILE", help="CSV or JSON Lines: text,label or prompt,completion."),
]


@app.command(epilog=texts.TUNE)
def tune(
    data: Rows,
    backbone: Backbone,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the model.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="Of this first task.")] = "first",
    template: Annotated[
        str | None,
        typer.Option(metavar="TEXT|@FILE", help="Words around a text, with {{ text }}; or a file."),
    ] = None,
    validation: Share = 0.2,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Passes over the rows; chosen by default.")
    ] = None,
    lr: Annotated[float | None, typer.Option(metavar="RATE", help="Learning rate.")] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Of the weights, such as bfloat16.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only errors and DIR.")] = False,
) -> None:
    """Specialise a frozen text model on your rows, and compare it with a hard prompt.

    Rows are text,label, or, for language models, prompt,completion.
    """
    with guarded():
        from cpool.cli.tune import tune_model

        settings = {"epochs": epochs, "lr": lr}
        options: dict[str, Any] = {k: v for k, v in settings.items() if v is not None}
        options |= {"name": name, "template": template, "validation": validation}
        options |= {"dtype": dtype, "seed": seed, "device": device}
        tune_model(data, backbone, out, options, quiet)


@app.command(epilog=texts.PREDICT)
def predict(
    folder: Folder,
    text: Texts = None,
    file: Lines = None,
    task: Told = None,
    device: Device = None,
) -> None:
    """Print the label of each text, one a line."""
    with guarded():
        from cpool.cli.tune import predict_labels

        predict_labels(folder, list(text or ()), file, task, device)


@app.command(epilog=texts.ADD)
def add(
    folder: Folder,
    data: Rows,
    task: Annotated[str, typer.Option(metavar="NAME", help="Of the new task.")],
    validation: Share = 0.2,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only errors.")] = False,
) -> None:
    """Teach a tuned model a further task, and show what became of the older ones."""
    with guarded():
        from cpool.cli.tune import add_task

        add_task(folder, data, task, validation, device, quiet)


@app.command(epilog=texts.GENERATE)
def generate(
    folder: Folder,
    text: Texts = None,
    file: Lines = None,
    task: Told = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="New tokens at most.  [default: 20, or the longest completion's]"
        ),
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw words, not the best.")] = False,
    device: Device = None,
) -> None:
    """Print what a tuned language model adds to each text, such as its completion."""
    with guarded():
        from cpool.cli.tune import generate_words

        options: dict[str, Any] = {"task": task, "do_sample": sample}
        options |= {} if tokens is None else {"max_new_tokens": tokens}
        generate_words(folder, list(text or ()), file, options, device)


@app.command("list", epilog=texts.LIST)
def list_(
    kind: Annotated[str, typer.Argument(metavar="|".join(KINDS), help="What to list.")],
) -> None:
    """List what experiments can name."""
    with guarded():
        if kind not in KINDS:
            raise unknown("list", kind, KINDS)
        from cpool.cli.show import show_list

        show_list(kind)


def main() -> None:
    """Run the command line; the entry point `cpool`."""
    app()
