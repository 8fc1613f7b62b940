"""What a study measured: one point a panel, x, series and seed, in one JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.study_file import METRICS, Study
from cpool.errors import CheckpointError
from cpool.experiment.trial_log import jsonable
from cpool.report.results import Stat

__all__ = [
    "SCHEMA",
    "Table",
    "panels_kept",
    "points_of",
    "settings_of",
    "study_document",
    "usage_entropy",
]

SCHEMA = 1
X = str | int | float


def usage_entropy(diagnostics: Mapping[str, Any] | None) -> float | None:
    """Return `−Σ p ln p / ln M` of the slots that the test samples got; None without a choice.

    p: share of each of the M slots in all choices of the last evaluation, tasks together; of the
    first branch that has several slots. 1: all are used alike; 0: one takes every sample.
    """
    for branch in (diagnostics or {}).get("branches", []):
        counts: list[int] = [sum(task) for task in zip(*branch["usage"], strict=True)]
        if len(counts) < 2 or not sum(counts):
            continue
        shares = [count / sum(counts) for count in counts if count]
        return -sum(p * math.log(p) for p in shares) / math.log(len(counts)) + 0.0
    return None


def points_of(
    study: Study,
    panel: str,
    x: X,
    runs: Iterable[Mapping[str, Any]],
    diagnostics: Mapping[tuple[str, int], Mapping[str, Any] | None],
) -> list[dict[str, Any]]:
    """Return the points of one experiment of a study.

    Args:
        study: what is drawn against what.
        panel: where it stands.
        x: of the variation.
        runs: of its results.json.
        diagnostics: label and seed → content of the run's diagnostics; None without prompts.

    Raises:
        CheckpointError: a metric that no run has.
    """
    values: dict[tuple[str, int], dict[str, float | None]] = {}
    for run in runs:
        key = (run["label"], run["seed"])
        values[key] = {name: run.get(name) for name in study.y}
        if "usage_entropy" in study.y:
            values[key]["usage_entropy"] = usage_entropy(diagnostics.get(key))
    for name in study.y:
        if all(found[name] is None for found in values.values()):
            raise CheckpointError(
                expected=f"{name} of the runs of study {study.name!r}",
                got="none in any run",
                remedy="Choose another y, or rows that have it.",
            )
    points = []
    for (label, seed), found in values.items():
        if study.minus is not None:
            if label == study.minus:
                continue
            found = _less(found, values[study.minus, seed])
        across, series = (label, str(x)) if study.along == "method" else (x, label)
        points.append({"panel": panel, "x": across, "series": series, "seed": seed, **found})
    return points


def _less(
    found: Mapping[str, float | None], base: Mapping[str, float | None]
) -> dict[str, float | None]:
    return {
        name: None if value is None or base[name] is None else value - float(base[name] or 0.0)
        for name, value in found.items()
    }


def study_document(
    study: Study, points: Sequence[Mapping[str, Any]], **facts: Any
) -> dict[str, Any]:
    """Return the content of the study's JSON.

    Args:
        study: what was asked.
        points: of all of its experiments, panels in any order.
        **facts: what they were measured on; `streams` by panel.
    """
    order = [str(panel.x) for panel in study.panels]
    facts["streams"] = {name: facts["streams"][name] for name in order if name in facts["streams"]}
    return {
        "schema": SCHEMA,
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "x": study.x,
        "y": list(study.y),
        "along": study.along,
        "scale": study.scale,
        "minus": study.minus,
        "settings": settings_of(study),
        **facts,
        "points": sorted(points, key=lambda point: order.index(point["panel"])),
    }


def panels_kept(document: Mapping[str, Any] | None, study: Study, seeds: Sequence[int]) -> set[str]:
    """Return the panels that a document holds as the study asks for them.

    Args:
        document: what was measured before; None for nothing.
        study: what is asked now.
        seeds: that it is asked with.
    """
    if document is None or list(seeds) != document["seeds"]:
        return set()
    had, asked = document["settings"], settings_of(study)
    if any(had[key] != asked[key] for key in ("experiment", "variations")):
        return set()
    same = [name for name, changes in asked["panels"] if [name, changes] in had["panels"]]
    return {str(name) for name in same} & set(document["streams"])


def settings_of(study: Study) -> dict[str, Any]:
    """Return what the file of a study runs, as JSON gives it back."""
    return {
        "experiment": jsonable(study.base),
        "panels": [[panel.x, list(panel.changes)] for panel in study.panels],
        "variations": [[one.x, list(one.changes)] for one in study.variations],
    }


class Table:
    """The points of a study, by panel, series and x; all in the order of the file.

    Args:
        document: the content of the study's JSON.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.points: list[Mapping[str, Any]] = document["points"]
        self.panels = self._all("panel")
        self.metrics: list[str] = document["y"]

    def _all(self, key: str, **of: Any) -> list[Any]:
        """Return the different values of a key, in the points that agree with `of`."""
        found = (p[key] for p in self.points if all(p[k] == v for k, v in of.items()))
        return list(dict.fromkeys(found))

    def xs(self, panel: str) -> list[X]:
        """Return the values of x in a panel."""
        return self._all("x", panel=panel)

    def series(self, panel: str) -> list[str]:
        """Return the series of a panel."""
        return self._all("series", panel=panel)

    def values(self, panel: str, series: str, x: X, metric: str) -> dict[int, float]:
        """Return seed → value, scaled as people read it; without what was not measured."""
        here = {"panel": panel, "series": series, "x": x}
        return {
            point["seed"]: METRICS[metric].scale * point[metric]
            for point in self.points
            if all(point[key] == value for key, value in here.items()) and point[metric] is not None
        }

    def stat(self, panel: str, series: str, x: X, metric: str) -> Stat | None:
        """Return mean and sample deviation over the seeds."""
        return Stat.of(self.values(panel, series, x, metric).values())
