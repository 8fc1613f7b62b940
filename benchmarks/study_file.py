"""The file of a study: a base experiment, what is varied in it, and what is drawn.

[study]
title, question = "…"          for the page
x = "tokens a prompt"          what varies, as the axis says it
y = ["average_accuracy"]       one or several of METRICS
along = "variation"            what the axis shows; "method": the rows, a series a variation
scale = "linear"               or "log"; x that are texts stand side by side
minus = "prompt_ridge none"    draw the difference to this row (same data, seed and variation)

[[panel]]                      optional: the same once more, in a plot of its own
name = "Split Digits"
set = ["stream.name=split_digits"]

[[variation]]                  each is run in each panel
x = 5
set = ["method.l2p.length=5"]  as `cpool run --set` has it

[experiment]                   the base: what a file of `cpool run` holds
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tomli_w

from cpool._io import write_bytes
from cpool.errors import ConfigError, unknown
from cpool.experiment.config import Experiment
from cpool.experiment.reading import read_experiment

__all__ = ["METRICS", "Cell", "Metric", "Study", "Variation", "read_study"]


class Metric(NamedTuple):
    """How a number is called and written: value · scale with so many digits."""

    name: str
    unit: str
    scale: float
    digits: int


METRICS = {
    "average_accuracy": Metric("average accuracy", " %", 100.0, 2),
    "average_incremental_accuracy": Metric("average incremental accuracy", " %", 100.0, 2),
    "learning_accuracy": Metric("learning accuracy", " %", 100.0, 2),
    "forgetting": Metric("forgetting", " points", 100.0, 2),
    "usage_entropy": Metric("usage entropy", "", 1.0, 3),
    "train_seconds": Metric("training time", " s", 1.0, 0),
    "predict_seconds": Metric("prediction time", " s", 1.0, 1),
    "trainable_parameters": Metric("trained parameters", "", 1.0, 0),
    "bytes_per_task": Metric("stored kB a task", "", 1e-3, 1),
}
_STUDY = {"title", "question", "x", "y", "along", "scale", "minus"}
_REQUIRED = {"title", "question", "x", "y"}


@dataclass(frozen=True)
class Variation:
    """What is changed in the base experiment; also a panel, whose x is its name."""

    x: str | int | float
    changes: tuple[str, ...]


class Cell(NamedTuple):
    """One experiment of a study: a variation in a panel."""

    number: int
    panel: str
    x: str | int | float
    experiment: Experiment


@dataclass(frozen=True)
class Study:
    """A study as its file has it; see the head of this module."""

    name: str
    title: str
    question: str
    x: str
    y: tuple[str, ...]
    along: Literal["variation", "method"]
    scale: Literal["linear", "log"]
    minus: str | None
    panels: tuple[Variation, ...]
    variations: tuple[Variation, ...]
    base: Mapping[str, Any]

    def cells(self, work: Path, seeds: list[int] | None = None) -> list[Cell]:
        """Return all experiments, each read and checked; the base is written to `work`.

        Raises:
            ConfigError: an experiment that cannot be, or has no row `minus`.
        """
        base = work / "base.toml"
        write_bytes(base, tomli_w.dumps({"name": self.name, **self.base}).encode())
        cells: list[Cell] = []
        for panel in self.panels:
            for variation in self.variations:
                changes = [*panel.changes, *variation.changes]
                experiment = read_experiment(base, changes, seeds)
                labels = [entry.label for entry in experiment.methods]
                if self.minus is not None and self.minus not in labels:
                    raise unknown("row of study.minus", self.minus, labels)
                cells.append(Cell(len(cells), str(panel.x), variation.x, experiment))
        return cells


def read_study(path: Path) -> Study:
    """Read and check the file of a study.

    Raises:
        ConfigError: no such file, broken TOML, or a key or value that has no meaning.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            expected=f"the file of a study, {path}", got=str(error), remedy="Correct the file."
        ) from error
    _known(raw, {"study", "panel", "variation", "experiment"}, {"study", "experiment"}, str(path))
    study = raw["study"]
    _known(study, _STUDY, _REQUIRED, f"[study] of {path}")
    y = tuple([study["y"]] if isinstance(study["y"], str) else study["y"])
    for name in y:
        if name not in METRICS:
            raise unknown("metric of a study", str(name), METRICS)
    along, scale = study.get("along", "variation"), study.get("scale", "linear")
    _one_of(along, ("variation", "method"), "study.along")
    _one_of(scale, ("linear", "log"), "study.scale")
    return Study(
        name=path.stem,
        title=study["title"],
        question=" ".join(study["question"].split()),
        x=study["x"],
        y=y,
        along=along,
        scale=scale,
        minus=study.get("minus"),
        panels=_changes(raw.get("panel", [{"name": ""}]), "name", str(path)),
        variations=_changes(raw.get("variation", [{"x": ""}]), "x", str(path)),
        base=raw["experiment"],
    )


def _changes(tables: list[dict[str, Any]], key: str, source: str) -> tuple[Variation, ...]:
    for table in tables:
        _known(table, {key, "set"}, {key}, source)
    names = [table[key] for table in tables]
    if len(set(names)) != len(names) or len({isinstance(name, str) for name in names}) > 1:
        raise ConfigError(
            expected=f"different values of {key}, all numbers or all texts, in {source}",
            got=repr(names),
            remedy="Give each table a value of its own.",
        )
    return tuple(Variation(table[key], tuple(table.get("set", ()))) for table in tables)


def _known(table: Mapping[str, Any], known: set[str], required: set[str], source: str) -> None:
    for key in table:
        if key not in known:
            raise unknown(f"key in {source}", key, sorted(known))
    missing = sorted(required - set(table))
    if missing:
        raise ConfigError(
            expected=f"{', '.join(sorted(required))} in {source}",
            got=f"no {', '.join(missing)}",
            remedy="Add what is missing.",
        )


def _one_of(value: Any, known: Iterable[str], key: str) -> None:
    if value not in known:
        raise ConfigError(
            expected=f"{key} of {', '.join(known)}", got=repr(value), remedy="Choose one of them."
        )
