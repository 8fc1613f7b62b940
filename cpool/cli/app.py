"""The commands, their options, and their help."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cpool._version import __version__
from cpool.cli.guard import guarded

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


class Kind(str, Enum):
    """What `cpool list` can list."""

    methods = "methods"
    backbones = "backbones"
    streams = "streams"
    policies = "policies"
    metrics = "metrics"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cpool {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Continual learning with pools of soft prompts on frozen Hugging Face models.

    \b
    Examples:
      cpool run benchmarks/experiments/quickstart.toml
      cpool report runs/quickstart
      cpool list methods
    """


@app.command()
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
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print only errors and the path of results.json.")
    ] = False,
) -> None:
    """Train and evaluate every method of an experiment with every seed.

    \b
    The output folder gets results.json (after every run), config.toml, environment.json,
    checkpoints/, diagnostics/ and report.html. Nothing is written when the file has an error.
    Exit status: 0 done, 2 wrong input, 130 interrupted (go on with --resume).

    \b
    Examples:
      cpool run experiment.toml
      cpool run experiment.toml --seeds 0 --set train.epochs=2 --out runs/short
      cpool run experiment.toml --set method.l2p.top_k=3 --set 'backbone.name="embedded"'
      cpool run experiment.toml --resume
    """
    with guarded():
        from cpool.cli.run import Options, run_experiment

        run_experiment(Options(file, out, seeds, tuple(set_ or ()), device, resume, quiet))


@app.command()
def compare(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS.json…", help="Files, or folders of runs.")
    ],
) -> None:
    """Show one table of several runs, one row a run and label.

    \b
    Example:
      cpool compare runs/quickstart runs/short/results.json
    """
    with guarded():
        from cpool.cli.show import show_comparison

        show_comparison(results)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="What `cpool run` wrote.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page.  [default: RUN_DIR/report.html]"),
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run.

    \b
    Example:
      cpool report runs/quickstart --out report.html
    """
    with guarded():
        from cpool.cli.show import make_report

        make_report(run_dir, out)


@app.command()
def inspect(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A folder with a manifest.json.")
    ],
) -> None:
    """Show slots, keys, norms, usage and provenance of a checkpoint, and check its files.

    \b
    Example:
      cpool inspect runs/quickstart/checkpoints/l2p/seed0
    """
    with guarded():
        from cpool.cli.inspect import show_checkpoint

        show_checkpoint(checkpoint)


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_choices=True)],
) -> None:
    """List what experiments can name.

    \b
    Example:
      cpool list streams
    """
    with guarded():
        from cpool.cli.show import show_list

        show_list(kind.value)


def main() -> None:
    """Run the command line; the entry point `cpool`."""
    app()
