"""The page of studies: question, plot, table, and sentences that are made of the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t as student

from benchmarks.study_axes import axis_name
from benchmarks.study_file import METRICS
from benchmarks.study_results import Table, X
from cpool.report import text
from cpool.report.results import Stat
from cpool.report.significance import ALPHA

__all__ = ["found", "is_clear", "page"]

HEAD = """\
# Studies

<!-- Made by `python -m benchmarks.study --page` from benchmarks/results/studies; changes by hand
     are lost. -->

One question each, asked on small data. `python -m benchmarks.study benchmarks/studies/NAME.toml`
repeats a study. Numbers are mean ± sample deviation over the seeds; a difference is taken seed by
seed, and is called clear when a paired t test parts its mean from 0 (two-sided, 0.05; with three
seeds that takes 2.5 deviations). Settings are those of the file, the same for all points of a row:
none was searched anew.
"""


def page(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return the whole page."""
    lines = [HEAD]
    for document in documents:
        table = Table(document)
        lines += [f"## {document['title']}", "", document["question"], ""]
        lines += ['<div class="flow">', f'--8<-- "study-{document["name"]}.svg"', "</div>", ""]
        for metric in table.metrics:
            lines += [f"{_upper(axis_name(document, metric))}, by {document['x']}:", ""]
            for panel in table.panels:
                lines += [*_grid(table, panel, metric), ""]
        lines += ["**Found.** " + " ".join(found(table)), "", *_facts(document), ""]
    return "\n".join(lines).rstrip() + "\n"


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]


def _grid(table: Table, panel: str, metric: str) -> list[str]:
    xs, digits = table.xs(panel), METRICS[metric].digits
    lines = [f"| {' | '.join([panel or ' ', *map(str, xs)])} |"]
    lines.append(f"| --- |{' ---: |' * len(xs)}")
    for name in table.series(panel):
        stats = [table.stat(panel, name, x, metric) for x in xs]
        cells = [text.with_deviation(stat, 1.0, digits) for stat in stats]
        lines.append(f"| {' | '.join([name, *cells]).replace(text.MISSING, '–')} |")
    return lines


def found(table: Table) -> list[str]:
    """Say what the numbers say, a sentence or two for each metric and panel."""
    if table.document["minus"] is not None:
        return [_parted(table, metric) for metric in table.metrics]
    sentences = []
    for metric in table.metrics:
        for panel in table.panels:
            place = panel if len(table.metrics) == 1 else f"{panel} {METRICS[metric].name}".strip()
            by_method = table.document["along"] == "method"
            if by_method and len(table.series(panel)) == 1:
                said = _over_seeds(table, panel, metric)
            else:
                said = _differences(table, panel, metric)
            if said:
                sentences.append(f"{place}: {'; '.join(said)}." if place else f"{'; '.join(said)}.")
    return sentences or ["Nothing to compare."]


def _parted(table: Table, metric: str) -> str:
    """Say of differences to one row where they are clear, whatever the panel and x."""
    document, said = table.document, []
    unit = " points" if METRICS[metric].unit == " %" else METRICS[metric].unit
    for name in dict.fromkeys(name for panel in table.panels for name in table.series(panel)):
        cells = [(panel, x) for panel in table.panels for x in table.xs(panel)]
        stats = {cell: table.stat(cell[0], name, cell[1], metric) for cell in cells}
        known = {cell: stat for cell, stat in stats.items() if stat is not None}
        sides = []
        for word, side in (("above", 1), ("below", -1)):
            clear = [c for c, stat in known.items() if side * stat.mean > 0 and is_clear(stat)]
            where = ", ".join(f"{panel} {x}".strip() for panel, x in clear)
            sides.append(f"clearly {word} in {len(clear)}" + (f" ({where})" if where else ""))
        mean = sum(stat.mean for stat in known.values()) / max(len(known), 1)
        sign = "−" if mean < 0 else "+"
        said.append(
            f"Of {len(known)} differences to {document['minus']}, {name} is {' and '.join(sides)}; "
            f"their mean is {sign}{abs(mean):.{METRICS[metric].digits}f}{unit}."
        )
    return " ".join(said)


def _differences(table: Table, panel: str, metric: str) -> list[str]:
    """Say for each row how it changes from the first x (or series) to the last."""
    xs, names = table.xs(panel), table.series(panel)
    said = []
    if table.document["along"] == "method":
        for x in xs:
            change = _change(table, (panel, names[0], x), (panel, names[-1], x), metric)
            if change:
                said.append(f"{x} {change} from {names[0]} to {names[-1]}")
        return said
    for name in names:
        change = _change(table, (panel, name, xs[0]), (panel, name, xs[-1]), metric)
        means = {x: table.stat(panel, name, x, metric) for x in xs}
        known = {x: stat.mean for x, stat in means.items() if stat is not None}
        if not change or len(known) < 2:
            continue
        best = max(known, key=lambda x: known[x])
        peak = f", highest at {best}" if len(known) > 2 else ""
        said.append(f"{name} {change} from {xs[0]} to {xs[-1]}{peak}")
    return said


def _change(
    table: Table, before: tuple[str, str, X], after: tuple[str, str, X], metric: str
) -> str | None:
    """Write a difference, paired by seed, and whether it is clear."""
    old, new = table.values(*before, metric), table.values(*after, metric)
    stat = Stat.of(new[seed] - old[seed] for seed in old if seed in new)
    if stat is None:
        return None
    known = METRICS[metric]
    unit = " points" if known.unit == " %" else known.unit
    size = f"{abs(stat.mean):.{known.digits}f}"
    verb = (
        "changes by 0" if not float(size) else f"{'rises' if stat.mean > 0 else 'falls'} by {size}"
    )
    if stat.deviation is None:
        return f"{verb}{unit} (one seed)"
    clear = "clear" if is_clear(stat) else "not clear"
    return f"{verb} ± {stat.deviation:.{known.digits}f}{unit} ({clear})"


def is_clear(stat: Stat) -> bool:
    """Tell whether a paired t test parts a mean of differences from 0; never one seed alone."""
    if stat.deviation is None:
        return False
    margin = float(student.ppf(1 - ALPHA / 2, stat.n - 1)) * stat.deviation / stat.n**0.5
    return abs(stat.mean) > margin


def _over_seeds(table: Table, panel: str, metric: str) -> list[str]:
    """Say how far the seeds lie apart, and whether they agree on the best row."""
    name, known = table.series(panel)[0], METRICS[metric]
    values = {x: table.values(panel, name, x, metric) for x in table.xs(panel)}
    values = {x: found for x, found in values.items() if found}
    seeds = set.intersection(*(set(found) for found in values.values())) if values else set()
    if len(values) < 2 or len(seeds) < 2:
        return []
    spread = {x: max(found.values()) - min(found.values()) for x, found in values.items()}
    most, least = max(spread, key=lambda x: spread[x]), min(spread, key=lambda x: spread[x])
    first = [max(values, key=lambda x: values[x][seed]) for seed in sorted(seeds)]
    best = max(values, key=first.count)
    unit = " points" if known.unit == " %" else known.unit
    return [
        f"best and worst of {len(seeds)} seeds lie {spread[least]:.{known.digits}f} ({least}) to "
        f"{spread[most]:.{known.digits}f}{unit} ({most}) apart",
        f"{best} is highest with {first.count(best)} of them",
    ]


def _facts(document: Mapping[str, Any]) -> list[str]:
    """Say on what the numbers were measured."""
    seeds = document["seeds"]
    streams = [
        f"{panel + ': ' if panel else ''}`{s['name']}`, {s['tasks']} tasks, "
        f"{s['test_samples']:,} test samples, backbone `{s['backbone']}`"
        for panel, s in document["streams"].items()
    ]
    few = "" if len(seeds) > 2 else f" Only {len(seeds)} seed{'s' * (len(seeds) > 1)}."
    environment = document["environment"]
    left = [name for name, _ in document["settings"]["panels"] if name not in document["streams"]]
    missing = f" Not run yet: {', '.join(left)}." if left else ""
    return [
        f"{'; '.join(streams)}. Seeds {', '.join(map(str, seeds))}.{few} "
        f"{document['experiments']} experiments, {document['seconds'] / 60:,.0f} min; cpool "
        f"{document['version']}, {environment['cpu']}, {environment['threads']} thread(s).{missing}"
    ]
