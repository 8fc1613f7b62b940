"""Print the tables of benchmarks.projection and benchmarks.recycling, as the page has them.

    python -m benchmarks.curve_tables

Accuracy in per cent after so many steps: mean over the seeds ± sample deviation; within a seed the
mean over the tasks that a line is about.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.projection import OUT as PROJECTION
from benchmarks.recycling import OUT as RECYCLING
from cpool._io import read_json

__all__ = ["equal", "gains", "nearness", "projection", "transfer", "universal"]

UNIVERSAL = {
    "transfer": "the prompt of one domain",
    "shared": "one prompt, trained on three domains in turn",
    "multitask": "P* of multitask prompt tuning",
    "taught": "the same, with teachers",
}

Row = Mapping[str, Any]


def _lines(head: str, groups: Mapping[str, list[Row]]) -> list[str]:
    """Return a table with a line a group, and a column for each number of steps."""
    marks = next(iter(groups.values()))[0]["accuracy"]
    lines = [f"| {head} | {' | '.join(f'{mark} steps' for mark in marks)} |"]
    lines.append("|---|" + "---:|" * len(marks))
    for name, rows in groups.items():
        cells = []
        for mark in marks:
            values = list(_by_seed(rows, lambda row, mark=mark: row["accuracy"][mark]).values())
            cells.append(f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _by_seed(rows: Iterable[Row], value: Callable[[Row], float]) -> dict[int, float]:
    """Return seed → mean of a value."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row["seed"], []).append(value(row))
    return {seed: float(np.mean(values)) for seed, values in found.items()}


def projection(document: Row) -> list[str]:
    """Return the table of prompts that were taken to the other model."""
    words = {
        "own": "its own start",
        "trained": "a trained prompt of the other model",
        "untrained": "an untrained prompt of the other model",
    }
    return _lines(
        "in, from",
        {
            f"{target}, from {said}": [
                row for row in document["rows"] if (row["target"], row["start"]) == (target, start)
            ]
            for target in ("SmolLM2", "MiniLM")
            for start, said in words.items()
        },
    )


def transfer(document: Row) -> list[str]:
    """Return the table of prompts that start from the prompt of another domain."""
    rows = document["rows"]
    moved = [row for row in rows if row["kind"] == "transfer"]
    pairs: dict[tuple[int, str], list[Row]] = {}
    for row in moved:
        pairs.setdefault((row["seed"], row["target"]), []).append(row)
    by_nearness = [sorted(group, key=lambda row: row["nearness"]) for group in pairs.values()]
    return _lines(
        "start",
        {
            "drawn words": [row for row in rows if row["kind"] == "scratch"],
            "the prompt of another domain": moved,
            "that of the nearest domain": [group[-1] for group in by_nearness],
            "that of the farthest": [group[0] for group in by_nearness],
        },
    )


def gains(document: Row, mark: str) -> list[str]:
    """Return source × target: points more than from drawn words after `mark` steps."""
    scratch = {
        (row["seed"], row["target"]): row["accuracy"][mark]
        for row in document["rows"]
        if row["kind"] == "scratch"
    }

    def gain(row: Row) -> float:
        return 100 * (row["accuracy"][mark] - scratch[row["seed"], row["target"]])

    return _pairs(document, "from \\ to", gain, "+.1f")


def early(document: Row) -> list[str]:
    """Return `gains` after the first steps that were measured."""
    return gains(document, _marks(document)[0])


def late(document: Row) -> list[str]:
    """Return `gains` in the end."""
    return gains(document, _marks(document)[-1])


def _marks(document: Row) -> list[str]:
    """Return the numbers of steps that were measured, but for none."""
    return [mark for mark in document["rows"][0]["accuracy"] if mark != "0"]


def nearness(document: Row) -> list[str]:
    """Return source × target: the nearness by which `best_source` ranks, mean over the seeds."""
    return _pairs(document, "near \\ to", lambda row: row["nearness"], ".1f")


def _pairs(document: Row, head: str, value: Callable[[Row], float], digits: str) -> list[str]:
    rows = document["rows"]
    names = list(dict.fromkeys(row["target"] for row in rows if row["kind"] == "scratch"))
    lines = [f"| {head} | {' | '.join(name.replace('_', ' ') for name in names)} |"]
    lines.append("|---|" + "---:|" * len(names))
    for source in names:
        cells = []
        for target in names:
            found = [
                value(row)
                for row in rows
                if (row["kind"], row["source"], row["target"]) == ("transfer", source, target)
            ]
            mean = float(round(np.mean(found), 1) + 0.0) if found else None  # −0.0 becomes 0.0
            cells.append("" if mean is None else format(mean, digits).replace("-", "−"))
        lines.append(f"| {source.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def universal(document: Row) -> list[str]:
    """Return the table of the last domain, after prompts that learned the others together."""
    rows = document["rows"]
    last = next(row["target"] for row in rows if row["kind"] == "shared")
    return _lines(
        "start",
        {
            said: [row for row in rows if (row["kind"], row["target"]) == (kind, last)]
            for kind, said in {"scratch": "drawn words", **UNIVERSAL}.items()
        },
    )


def equal(document: Row) -> list[str]:
    """Return the table of the steps to what the last domain has with drawn words.

    Between two numbers of steps the mean curve counts as straight. A start that is not as accurate
    at any of them has a dash.
    """
    rows = document["rows"]
    last = next(row["target"] for row in rows if row["kind"] == "shared")
    wanted = _mean(row for row in rows if (row["kind"], row["target"]) == ("scratch", last))
    marks = [mark for mark in wanted if mark > 0]
    columns = [f"{mark}: {100 * wanted[mark]:.1f} %" for mark in marks]
    lines = [f"| start | {' | '.join(columns)} |", "|---|" + "---:|" * len(marks)]
    for kind, said in UNIVERSAL.items():
        has = _mean(row for row in rows if (row["kind"], row["target"]) == (kind, last))
        found = [_steps_to(has, wanted[mark]) for mark in marks]
        cells = ["–" if steps is None else f"{steps:.0f}" for steps in found]
        lines.append(f"| {said} | {' | '.join(cells)} |")
    return lines


def _mean(rows: Iterable[Row]) -> dict[int, float]:
    """Return steps → mean accuracy over the seeds; in a seed, over what started there."""
    rows = list(rows)
    found = {}
    for mark in rows[0]["accuracy"]:
        values = _by_seed(rows, lambda row, mark=mark: row["accuracy"][mark])
        found[int(mark)] = float(np.mean(list(values.values())))
    return found


def _steps_to(curve: Mapping[int, float], level: float) -> float | None:
    """Return when a curve is first at a level, None where it never is."""
    before: tuple[int, float] | None = None
    for mark, value in curve.items():
        if value >= level:
            if before is None:
                return float(mark)
            share = (level - before[1]) / (value - before[1])
            return before[0] + share * (mark - before[0])
        before = mark, value
    return None


def tables(folder: Path | None = None) -> list[list[str]]:
    """Return the tables of what was measured.

    Args:
        folder: of the results; that of the repository by default.
    """
    found = []
    for path, makers in (
        (PROJECTION, [projection]),
        (RECYCLING, [transfer, nearness, early, late, universal, equal]),
    ):
        file = path if folder is None else folder / path.name
        if file.is_file():
            document = read_json(file)
            found += [make(document) for make in makers]
    return found


if __name__ == "__main__":
    made = tables()
    if not made:
        sys.exit("Nothing was measured: python -m benchmarks.projection, and .recycling")
    print("\n\n".join("\n".join(table) for table in made))
