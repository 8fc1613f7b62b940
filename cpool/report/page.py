"""One self-contained HTML page about a run: no network, readable on a phone and on paper."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from cpool._io import read_json, write_bytes
from cpool.errors import CheckpointError
from cpool.report.diagnostics import load_diagnostics
from cpool.report.grids import facts, numbers_of_runs, settings_of_rows, summary_table
from cpool.report.loading import load_results, notes_of
from cpool.report.ranking import ordered
from cpool.report.results import rows_of
from cpool.report.sections import (
    accuracy_matrices,
    cost_picture,
    curves_picture,
    key_pictures,
    usage_tables,
)
from cpool.report.sentences import headline

__all__ = ["write_report"]

TEMPLATES = Path(__file__).parent / "templates"


def write_report(run_dir: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a run directory as one HTML file.

    Args:
        run_dir: what `cpool run` wrote; results.json is needed, the rest is shown if it is there.
        out: the file to write; default `report.html` in the run directory.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: results.json is missing or no JSON, or the page cannot be written.
        DataError: results.json holds something else than results.
    """
    run_dir = Path(run_dir)
    results = load_results(run_dir, dry=True)  # the page says so itself
    out = Path(out) if out is not None else run_dir / "report.html"
    write_bytes(out, render(results, run_dir).encode())
    return out


def render(results: Mapping[str, Any], run_dir: Path) -> str:
    """Fill the template with `results` and what else `run_dir` holds."""
    rows = ordered(rows_of(results))
    diagnostics, problems = load_diagnostics(run_dir)
    environment, config = _environment(run_dir, problems), _config(run_dir)
    matrices, scale = accuracy_matrices(rows)
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html.j2")
    return template.render(
        title=results.get("name") or "Run",
        description=results.get("description") or "",
        headline=headline(rows),
        summary=summary_table(rows),
        curves=curves_picture(rows),
        matrices=matrices,
        scale=scale,
        cost=cost_picture(rows),
        usage=usage_tables(diagnostics),
        keys=key_pictures(diagnostics),
        facts=facts(results, environment),
        tasks=_tasks(results),
        config=config,
        numbers=numbers_of_runs(rows),
        settings=settings_of_rows(rows),
        problems=[*notes_of(results), *problems],
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
    )


def _environment(run_dir: Path, problems: list[str]) -> dict[str, Any]:
    file = run_dir / "environment.json"
    if not file.is_file():
        return {}
    try:
        content = read_json(file)
    except CheckpointError as error:
        problems.append(f"environment.json could not be read: {error.got}.")
        return {}
    return content if isinstance(content, dict) else {}


def _config(run_dir: Path) -> str | None:
    file = run_dir / "config.toml"
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None


def _tasks(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the tasks of the stream with their classes and sizes, as far as they are known."""
    stream = results.get("stream") or {}
    names = stream.get("task_names") or []
    classes, train = stream.get("task_classes") or [], stream.get("train_sizes") or []
    test = stream.get("test_sizes") or []

    def at(values: list[Any], k: int) -> Any:
        return values[k] if k < len(values) else "—"

    return [
        {
            "name": name,
            "classes": ", ".join(map(str, classes[k])) if k < len(classes) else "—",
            "train": at(train, k),
            "test": at(test, k),
        }
        for k, name in enumerate(names)
    ]
