"""What the rows of the study of hard and soft prompts cost in its panels beside the first."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.comparison import KINDS, WATTS, joules, kind_of
from benchmarks.cost_plot import Mark, cost_svg
from benchmarks.panel_costs import COSTS
from benchmarks.study_results import Table
from cpool._io import read_json
from cpool.report import text

__all__ = ["cost_pictures", "cost_section", "seconds_of"]

HEADS = ("accuracy %", "trained", "stored", "tokens", "ms", "s", "energy", "step", "memory")
UNITS = {0.01: "0.01 s", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 100.0: "100 s"}
LEAST = 0.01  # seconds: what takes less stands there on the picture
SAID = """\
The same costs for the other data sets, with {x} queries a class, from
`python -m benchmarks.panel_costs`, on one core with other work on the second. **s**: of
training; for what trains by steps, their number times the median of one step. **energy**: an
estimate, these seconds times {watts:g} W. The other columns are those of the tables above.
"""


def seconds_of(costs: Mapping[str, Any]) -> float:
    """Return the seconds of a row's training: those that were measured, or steps × one step."""
    if "steps" in costs:
        return float(costs["steps"] * costs["step_seconds"])
    return float(costs["train_seconds"])


def _panels(results: Path) -> dict[str, Any]:
    file = results / COSTS.name
    return read_json(file) if file.is_file() else {}


def cost_section(
    results: Path,
    document: Mapping[str, Any],
    methods: Mapping[str, str],
    pictures: Iterable[str] = (),
) -> list[str]:
    """Return the section of the page; nothing while no costs are there.

    Args:
        results: benchmarks/results.
        document: of the study.
        methods: of its rows, by label.
        pictures: the files that `cost_pictures` names, to stand below the table.
    """
    found = _panels(results)
    if not found:
        return []
    table, x = Table(document), found["x"]
    lines = ["## What that costs on the other data sets", ""]
    lines += [SAID.format(x=x, watts=WATTS)]
    lines += [f"| | {' | '.join(HEADS)} |", f"| --- |{' ---: |' * len(HEADS)}"]
    for panel, measured in found["panels"].items():
        lines.append(f"| *{panel}* |{' |' * len(HEADS)}")
        for kind in KINDS:
            for label in (row for row in measured["rows"] if kind_of(methods[row]) == kind):
                accuracy = table.stat(panel, label, x, "average_accuracy")
                cells = [text.with_deviation(accuracy, 1.0, 1), *_cells(measured["rows"][label])]
                lines.append(f"| `{label}` | {' | '.join(cells)} |".replace(text.MISSING, "–"))
    lines.append("")
    for picture in pictures:
        lines += ['<div class="flow">', f'--8<-- "{picture}"', "</div>", ""]
    return lines


def _cells(costs: Mapping[str, Any]) -> list[str]:
    seconds, step = seconds_of(costs), costs.get("step_over_full")
    memory = costs.get("peak_bytes")
    return [
        text.count(costs["trainable_parameters"]) if costs["trainable_parameters"] else "0",
        text.size(costs["stored_bytes"]),
        f"{costs['tokens_added']:.0f}",
        f"{1000 * costs['request_seconds']:.0f}",
        f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}" if seconds >= 0.05 else "< 0.1",
        joules(WATTS * seconds),
        "–" if step is None else f"{step:.2f} ×",
        "–" if memory is None else text.size(memory),
    ]


def cost_pictures(
    results: Path, document: Mapping[str, Any], methods: Mapping[str, str]
) -> dict[str, str]:
    """Return accuracy against cost of each panel, by the name of the file.

    Args:
        results: benchmarks/results.
        document: of the study.
        methods: of its rows, by label.
    """
    found = _panels(results)
    table, pictures = Table(document), {}
    for panel, measured in found.get("panels", {}).items():
        marks = [
            Mark(label, kind, max(LEAST, seconds_of(costs)), accuracy)
            for kind in KINDS
            for label, costs in measured["rows"].items()
            if kind_of(methods[label]) == kind
            and (accuracy := table.stat(panel, label, found["x"], "average_accuracy")) is not None
        ]
        name = f"hard-and-soft-cost-{panel.split(',')[0].lower()}.svg"
        title = f"{panel}: accuracy against training time"
        pictures[name] = cost_svg(marks, f"{panel}: training on one core", title, UNITS)
    return pictures
