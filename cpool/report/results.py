"""What runs measured, grouped: one row a label, its numbers over the seeds."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from cpool.methods import METHODS
from cpool.metrics import AccuracyMatrix
from cpool.report.loading import check_results

__all__ = ["BASELINES", "UPPER_BOUNDS", "Row", "Setting", "Stat", "rows_of"]

BASELINES: Final = frozenset(n for n, m in METHODS.items() if not (m.prompts or m.joint))
"""Methods without prompts; a run may say so itself with `"prompts": false`."""
UPPER_BOUNDS: Final = frozenset(n for n, m in METHODS.items() if m.joint)
"""Methods that see all tasks at once; a run may say so itself with `"joint": true`."""

Role = Literal["prompts", "baseline", "upper bound"]


@dataclass(frozen=True)
class Stat:
    """Mean over seeds, sample deviation (None with a single one), and how many were measured."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[int | float | None]) -> "Stat | None":
        """Summarise the values that were measured; None when there are none.

        >>> Stat.of([1.0, 2.0, None])
        Stat(mean=1.5, deviation=0.7071067811865476, n=2)
        """
        known = np.array([v for v in values if v is not None], dtype=float)
        if not len(known):
            return None
        deviation = float(known.std(ddof=1)) if len(known) > 1 else None
        return cls(float(known.mean()), deviation, len(known))


class Setting(NamedTuple):
    """What must agree for numbers to compare; the fields are named as in warnings."""

    backbone: str
    query_features: str
    stream: str
    number_of_training_samples: int
    number_of_tasks: int
    evaluated_split: str

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> "Setting":
        """Read it from the content of a results.json.

        The sizes of single tasks depend on the order of the classes, so their sum and number count.
        """
        backbone, stream = results.get("backbone") or {}, results.get("stream") or {}
        query = [backbone.get(key) for key in ("pooling", "normalize")]
        sizes = list(stream.get("train_sizes") or [])
        return cls(
            _fingerprint(backbone),
            repr([*query, list(backbone.get("layers") or [])]),
            _fingerprint(stream),
            sum(sizes),
            len(sizes),
            str(results.get("evaluated_on") or "test"),
        )

    def differing(self, other: "Setting") -> list[str]:
        """Name the fields that differ, for people."""
        return [
            name.replace("_", " ")
            for name, mine, theirs in zip(self._fields, self, other, strict=True)
            if mine != theirs
        ]


@dataclass(frozen=True)
class Row:
    """The runs of one label in one results.json, one a seed.

    Attributes:
        run: name of the experiment.
        label: name of the row, unique in its experiment.
        method: registered name of the method.
        role: "prompts", "baseline" (no prompts) or "upper bound".
        runs: the entries of `runs`, in the order of the file.
        setting: backbone, query features, data and split; rows with other ones do not compare.
    """

    run: str
    label: str
    method: str
    role: Role
    runs: tuple[Mapping[str, Any], ...]
    setting: Setting

    def stat(self, key: str) -> Stat | None:
        """Summarise a number of the runs over the seeds; None when it was never measured."""
        return Stat.of(run.get(key) for run in self.runs)

    def milliseconds(self) -> Stat | None:
        """Milliseconds to predict one test sample."""
        return Stat.of(_per_sample(run) for run in self.runs)

    def matrices(self) -> list[Float[np.ndarray, "tasks tasks"]]:
        """Return R [tasks, tasks] of every seed that has one; NaN = not measured."""
        records = [run for run in self.runs if run.get("accuracy_matrix")]
        kept = ("accuracy_matrix", "test_sizes")
        return [
            AccuracyMatrix.from_json({key: run.get(key) for key in kept}).values for run in records
        ]

    def mean_matrix(self) -> Float[np.ndarray, "tasks tasks"] | None:
        """Return the mean of `matrices` over the seeds; NaN where any of them has a gap.

        None when there is none, or when they are of streams of different lengths.
        """
        matrices = self.matrices()
        return np.mean(matrices, axis=0) if len({len(m) for m in matrices}) == 1 else None


def rows_of(
    results: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    baselines: Collection[str] = BASELINES,
) -> list[Row]:
    """Group the runs of one or several results by label, in the order of the files.

    Args:
        results: the content of one results.json, or a list of several.
        baselines: names of methods that use no prompts.
    """
    several = [results] if isinstance(results, Mapping) else list(results)
    rows: list[Row] = []
    names: dict[str, int] = {}
    for number, one in enumerate(several):
        check_results(one)
        name = str(one.get("name") or f"run {number + 1}")
        names[name] = names.get(name, 0) + 1
        name = name if names[name] == 1 else f"{name} ({names[name]})"
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for run in one["runs"]:
            groups.setdefault(str(run.get("label") or run["method"]), []).append(run)
        setting = Setting.of(one)
        for label, runs in groups.items():
            method, role = runs[0]["method"], _role(runs[0], baselines)
            rows.append(Row(name, label, method, role, tuple(runs), setting))
    return rows


def _role(run: Mapping[str, Any], baselines: Collection[str]) -> Role:
    if run.get("joint", run["method"] in UPPER_BOUNDS):
        return "upper bound"
    return "prompts" if run.get("prompts", run["method"] not in baselines) else "baseline"


def _fingerprint(part: Mapping[str, Any]) -> str:
    return str(part.get("fingerprint") or part.get("name") or "")


def _per_sample(run: Mapping[str, Any]) -> float | None:
    seconds, sizes = run.get("predict_seconds"), run.get("test_sizes") or []
    total = sum(n for n in sizes if n)
    return 1000 * seconds / total if seconds is not None and total else None
