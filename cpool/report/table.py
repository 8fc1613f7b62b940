"""Results as a table: for the terminal with rich, for documents as Markdown."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cpool.report import text
from cpool.report.loading import notes_of
from cpool.report.ranking import BEST, caption, marks, ordered, setting_warning
from cpool.report.results import BASELINES, Row, rows_of

__all__ = ["COLUMNS", "captions", "grid", "headings", "results_markdown", "results_table"]


@dataclass(frozen=True)
class Column:
    """One column: its heading, how a cell is written, and from which width on it is shown."""

    heading: str
    cell: Callable[[Row], str]
    width: int


def _mean(key: str, write: Callable[[float | None], str]) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        stat = row.stat(key)
        return write(stat.mean if stat else None)

    return cell


def _milliseconds(row: Row) -> str:
    stat = row.milliseconds()
    return text.plain(stat.mean if stat else None)


COLUMNS = (
    Column("accuracy %", lambda r: text.with_deviation(r.stat("average_accuracy")), 0),
    Column("incr. %", lambda r: text.points(r.stat("average_incremental_accuracy")), 75),
    Column("forgetting", lambda r: text.points(r.stat("forgetting")), 46),
    Column("trained", _mean("trainable_parameters", text.count), 85),
    Column("per task", _mean("bytes_per_task", text.size), 60),
    Column("train s", _mean("train_seconds", text.plain), 70),
    Column("ms/sample", _milliseconds, 95),
)


def results_table(
    results: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    width: int | None = None,
    baselines: Collection[str] = BASELINES,
) -> Table:
    """Lay out one row a label, best first: accuracy, forgetting and what they cost.

    Average accuracy (mean ± sample deviation over the seeds) and average incremental accuracy are
    in percent, forgetting in points, `trained` counts parameters, `per task` bytes. ★ marks the
    best row that is no upper bound, ≈ those within one deviation of it.

    Args:
        results: the content of one results.json, or several to compare.
        width: columns of the terminal (default: what rich finds, 80 for a pipe); a narrow one
            gets fewer columns, and the caption says which are left out.
        baselines: names of methods that use no prompts.

    Raises:
        DataError: `results` are not the results of a run.

    >>> run = {"method": "ncm", "seed": 0, "average_accuracy": 0.75}
    >>> results_table({"runs": [run]}, width=100).row_count
    1
    """
    rows = ordered(rows_of(results, baselines))
    several = len({row.run for row in rows}) > 1
    columns = _fitting(Console().width if width is None else width, several)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, caption_justify="left")
    for heading in headings(columns, several):
        table.add_column(heading, justify="right", no_wrap=True)
    for column in table.columns[: 1 + several]:
        column.justify, column.no_wrap, column.overflow = "left", False, "fold"
    table.columns[int(several)].min_width = 10
    for k, (row, cells) in enumerate(grid(rows, columns, several)):
        style = "bold" if BEST in cells[1 + several] else "dim" if row.role == "upper bound" else ""
        following = rows[k + 1] if k + 1 < len(rows) else row
        section = (row.setting, row.role == "upper bound") != (
            following.setting,
            following.role == "upper bound",
        )
        # Text, not str: a label with [brackets] is no rich markup.
        table.add_row(*(Text(cell, style) for cell in cells), end_section=section)
    left_out = [c.heading for c in COLUMNS if c not in columns]
    table.caption = Text("\n".join([*captions(rows, left_out), *notes_of(results)]))
    return table


def results_markdown(
    results: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    baselines: Collection[str] = BASELINES,
) -> str:
    """Write the table of `results_table`, all columns, as Markdown for a document.

    Raises:
        DataError: `results` are not the results of a run.

    >>> run = {"method": "ncm", "seed": 0, "average_accuracy": 0.75, "forgetting": None}
    >>> print(results_markdown({"runs": [run]}).splitlines()[2])
    | **ncm** | **★ 75.00** | **—** | **—** | **—** | **—** | **—** | **—** |
    """
    rows = ordered(rows_of(results, baselines))
    several = len({row.run for row in rows}) > 1
    sides = ["---"] * (1 + several) + ["---:"] * len(COLUMNS)
    lines = [_line(headings(COLUMNS, several)), _line(sides)]
    for _, cells in grid(rows, COLUMNS, several):
        best = BEST in cells[1 + several]
        plain = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
        lines.append(_line([f"**{cell}**" for cell in plain] if best else plain))
    return "\n".join([*lines, "", *captions(rows, []), *notes_of(results)]) + "\n"


def headings(columns: Sequence[Column], several: bool) -> list[str]:
    """Name the columns; with `several` runs the first one names the run."""
    return [*(["run"] if several else []), "method", *(c.heading for c in columns)]


def grid(
    rows: Sequence[Row], columns: Sequence[Column], several: bool
) -> list[tuple[Row, list[str]]]:
    """Write every cell of `rows`, the marks before the average accuracy."""
    marked, lines = marks(rows), []
    for row in rows:
        cells = [column.cell(row) for column in columns]
        cells[0] = f"{marked.get((row.run, row.label), '')} {cells[0]}".lstrip()
        name = f"{row.label} (upper bound)" if row.role == "upper bound" else row.label
        lines.append((row, [*([row.run] if several else []), name, *cells]))
    return lines


def captions(rows: Sequence[Row], left_out: Sequence[str]) -> list[str]:
    """Say below the table who is best, what does not compare, and what is left out."""
    lines = [caption(rows), setting_warning(rows)]
    if left_out:
        lines.append(f"Left out for want of width: {', '.join(left_out)}.")
    return [line for line in lines if line]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _fitting(width: int, several: bool) -> list[Column]:
    # A column for the run takes about as much as one of numbers.
    room = width - (12 if several else 0)
    return [column for column in COLUMNS if column.width <= room]
