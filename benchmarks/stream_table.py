"""One table of the benchmark page: a row a method, costs as ratios to the frozen model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.effort import epochs, few_epochs, trials
from benchmarks.limits import few_pairs, loose_bounds
from cpool.meter import COSTS
from cpool.methods import METHODS
from cpool.report import text
from cpool.report.loading import notes_of
from cpool.report.ranking import BEST, ordered
from cpool.report.ranks import ranks_of
from cpool.report.results import Row, Stat, rows_of
from cpool.report.significance import ALPHA, Comparison, compare_with_best

HEADINGS = (
    "rank",
    "method",
    "accuracy %",
    "against the best",
    "incr. %",
    "forgetting",
    "epochs",
    "trials",
    "trained",
    "per task",
    "train ×",
    "predict ×",
)
NONE = "–"


@dataclass(frozen=True)
class Document:
    """One committed experiment.

    Attributes:
        name: of its folder.
        results: the content of results.json.
        environment: the content of environment.json.
    """

    name: str
    results: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def rows(self) -> list[Row]:
        """Its rows, best first, upper bounds last."""
        return ordered(rows_of(self.results))

    def accuracies(self) -> dict[str, float]:
        """Mean average accuracy over the seeds by label, without upper bounds."""
        found = ((row, row.stat("average_accuracy")) for row in self.rows)
        return {row.label: s.mean for row, s in found if s and row.role != "upper bound"}


def training_ratio(run: Mapping[str, Any], samples: int) -> float | None:
    """Return seconds of training over those of one frozen pass over the training data.

    Args:
        run: an entry of `runs`.
        samples: training samples of all tasks.
    """
    return _ratio(run.get("train_seconds"), run.get("frozen_seconds_per_sample"), samples)


def prediction_ratio(run: Mapping[str, Any]) -> float | None:
    """Return seconds of the last evaluation over those of one frozen pass over the test data."""
    samples = sum(size for size in run.get("test_sizes") or [] if size)
    return _ratio(run.get("predict_seconds"), run.get("frozen_seconds_per_sample"), samples)


def _ratio(seconds: float | None, frozen: float | None, samples: int) -> float | None:
    # Both times are of one process, so a busy machine slows both.
    return None if seconds is None or not frozen or not samples else seconds / (frozen * samples)


def table(document: Document) -> list[str]:
    """Return the table as lines of Markdown, with what must be known below it."""
    rows = document.rows
    ranks = ranks_of(document.accuracies())
    compared = {found.other: found for found in compare_with_best(rows)}
    lines = [_line(HEADINGS), _line(["---:", "---", "---:", "---", *["---:"] * 8])]
    samples = sum((document.results.get("stream") or {}).get("train_sizes") or [])
    for row in rows:
        lines.append(_line(_cells(row, ranks, compared, samples)))
    not_run = document.results.get("not_run") or {}
    for label in not_run:
        lines.append(_line([NONE, label, *[NONE] * (len(HEADINGS) - 2)]))
    reasons = [f"{NONE} {label}: {reason}" for label, reason in not_run.items()]
    return [*lines, "", *_paragraphs([*facts(document), *reasons])]


def _cells(
    row: Row, ranks: Mapping[str, float], compared: Mapping[str, Comparison], samples: int
) -> list[str]:
    bound = row.role == "upper bound"
    stats = {key: row.stat(key) for key in ("trainable_parameters", "bytes_per_task")}
    mean = {key: stat.mean if stat else None for key, stat in stats.items()}
    best = not bound and row.label not in compared
    cells = [
        NONE if bound or row.label not in ranks else f"{ranks[row.label]:g}",
        f"{row.label} (upper bound)" if bound else row.label,
        text.with_deviation(row.stat("average_accuracy")),
        NONE if bound else BEST if best else _against(compared[row.label]),
        text.points(row.stat("average_incremental_accuracy")),
        text.points(row.stat("forgetting")),
        epochs(row) or NONE,
        trials(row) or NONE,
        text.count(mean["trainable_parameters"]),
        text.size(mean["bytes_per_task"]),
        _times(Stat.of(training_ratio(run, samples) for run in row.runs)),
        _times(Stat.of(prediction_ratio(run) for run in row.runs)),
    ]
    plain = [cell.replace("|", "\\|").replace(text.MISSING, NONE) for cell in cells]
    return [f"**{cell}**" for cell in plain] if best else plain


def _against(found: Comparison) -> str:
    if found.difference is None or found.corrected is None:
        return NONE
    p = "p < 0.001" if found.corrected < 0.001 else f"p = {found.corrected:.3f}"
    alike = "≈ " if found.corrected >= ALPHA else ""
    return f"{alike}{text.points(Stat(-found.difference, None, 1))}, {p}"


def _times(stat: Stat | None) -> str:
    return NONE if stat is None else text.plain(stat.mean)


def facts(document: Document) -> list[str]:
    """Say on what data, at what size, after which search and where the numbers were measured."""
    results, stream = document.results, document.results.get("stream") or {}
    backbone, environment = results.get("backbone") or {}, document.environment
    seeds = sorted({run["seed"] for run in results["runs"]})
    sizes = {key: sum(stream.get(key) or []) for key in ("train_sizes", "test_sizes")}
    lines = [
        f"{stream.get('tasks')} tasks, {results.get('scenario')}-incremental, "
        f"{sizes['train_sizes']:,} training and {sizes['test_sizes']:,} test samples, "
        f"seeds {', '.join(map(str, seeds))}; backbone `{backbone.get('name')}`."
    ]
    reduced = [
        f"{key} = {value}"
        for key, value in (stream.get("options") or {}).items()
        if key.endswith("_per_class") and value is not None
    ]
    if reduced:
        lines.append(f"Reduced size: {', '.join(reduced)}.")
    rows = document.rows
    compared = compare_with_best(rows)
    said = [
        few_pairs(max((found.pairs for found in compared), default=0), len(compared)),
        loose_bounds(rows),
        few_epochs(rows),
    ]
    lines += [words for words in said if words]
    other = choices(results["runs"])
    if other:
        lines.append(f"Choices other than the methods' defaults of this version: {other}.")
    if not results.get("search"):
        lines.append(
            "No search: settings are those of the experiment file, and the methods' defaults where "
            "it names none."
        )
    if any(run.get("costs", 1) < COSTS for run in results["runs"]):
        lines.append(
            "Costs measured by an earlier version: prediction found its images prepared, and "
            "*trained* counts the parameters of the finished model."
        )
    if len(seeds) < 3:
        lines.append(f"Only {len(seeds)} seed{'s' * (len(seeds) > 1)}.")
    lines += notes_of(results)
    seconds = environment.get("seconds")
    took = f", {seconds / 60:,.0f} min in all" if seconds else ""
    lines.append(
        f"Data {str(stream.get('fingerprint'))[:12]}, backbone "
        f"{str(backbone.get('fingerprint'))[:12]}, cpool {results.get('version')}; "
        f"{environment.get('cpu')}, {environment.get('threads')} thread(s) a process{took}."
    )
    return lines


def _in_a_line(value: str | bool) -> str:
    r"""Write a value; a text of several words or lines as code, its line ends visible.

    >>> _in_a_line("tokens"), _in_a_line("one\ntwo")
    ('tokens', '`one\\ntwo`')
    """
    said = str(value).replace("\n", r"\n")
    return f"`{said}`" if {" ", "\\"} & set(said) else said


def choices(runs: list[dict[str, Any]]) -> str:
    """Name the options that a row with a method's own name chose otherwise than its default.

    Numbers are left to the experiment file; a choice can make a row another method.
    """
    said = {}
    for run in runs:
        if run["label"] != run["method"] or run["method"] not in METHODS:
            continue
        usual = vars(METHODS[run["method"]]())
        differ = [
            f"{key} = {_in_a_line(value)}"
            for key, value in run["hyper_parameters"].items()
            if isinstance(value, str | bool)
            and key in usual
            and usual[key] != value
            # A number in place of "auto", or the other way round, is a number.
            and isinstance(usual[key], type(value))
        ]
        if differ:
            said[run["label"]] = f"`{run['label']}` with {', '.join(differ)}"
    return "; ".join(said[label] for label in sorted(said))


def _paragraphs(lines: list[str]) -> list[str]:
    return [part for line in lines for part in (line, "")]


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
