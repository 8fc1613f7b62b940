"""Reading what runs measured: results.json checked once, and grouped into one row a label."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float

from cpool._io import read_json
from cpool.errors import CheckpointError, DataError, MetricError
from cpool.metrics import AccuracyMatrix

__all__ = [
    "BASELINES",
    "UPPER_BOUNDS",
    "Row",
    "Stat",
    "check_results",
    "load_results",
    "notes_of",
    "rows_of",
]

SCHEMA = 1
BASELINES: Final = frozenset(
    {"fine_tune", "gaussian_head", "knn", "linear_head", "lora", "ncm", "no_prompt", "ranpac"}
    | {"ridge", "simple_cil", "simplecil", "slca"}
)
"""Methods without prompts; a run may say so itself with `"prompts": false`."""
UPPER_BOUNDS: Final = frozenset({"joint"})
"""Methods that see all tasks at once; a run may say so itself with `"joint": true`."""

Role = Literal["prompts", "baseline", "upper bound"]


@dataclass(frozen=True)
class Stat:
    """Mean over seeds, sample deviation (None with a single one), and how many were measured."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Stat | None":
        """Summarise the values that were measured; None when there are none.

        >>> Stat.of([1.0, 2.0, None])
        Stat(mean=1.5, deviation=0.7071067811865476, n=2)
        """
        known = np.array([v for v in values if v is not None], dtype=float)
        if not len(known):
            return None
        deviation = float(known.std(ddof=1)) if len(known) > 1 else None
        return cls(float(known.mean()), deviation, len(known))


@dataclass(frozen=True)
class Row:
    """The runs of one label in one results.json, one a seed.

    Attributes:
        run: name of the experiment.
        label: name of the row, unique in its experiment.
        method: registered name of the method.
        role: "prompts", "baseline" (no prompts) or "upper bound".
        runs: the entries of `runs`, in the order of the file.
        setting: fingerprints of backbone and stream; rows with other ones do not compare.
    """

    run: str
    label: str
    method: str
    role: Role
    runs: tuple[Mapping[str, Any], ...]
    setting: tuple[str, str]

    def stat(self, key: str) -> Stat | None:
        """Summarise a number of the runs over the seeds; None when it was never measured."""
        return Stat.of(run.get(key) for run in self.runs)

    def milliseconds(self) -> Stat | None:
        """Milliseconds to predict one test sample."""
        return Stat.of(_per_sample(run) for run in self.runs)

    def matrices(self) -> list[Float[np.ndarray, "tasks tasks"]]:
        """Return R [tasks, tasks] of every seed that has one; NaN = not measured."""
        records = [run for run in self.runs if run.get("accuracy_matrix")]
        return [AccuracyMatrix.from_json(_bare(run)).values for run in records]

    def mean_matrix(self) -> Float[np.ndarray, "tasks tasks"] | None:
        """Return the mean of `matrices` over the seeds; NaN where any of them has a gap."""
        matrices = self.matrices()
        return np.mean(matrices, axis=0) if matrices else None


def load_results(path: Path | str) -> dict[str, Any]:
    """Read the results.json at `path`, or in the run directory `path`, and check it.

    Raises:
        CheckpointError: there is no such file, or it is not JSON.
        DataError: it holds something else than the results of a run.
    """
    path = Path(path)
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(
            expected=f"the results of a run in {file}",
            got="no such file",
            remedy="Give the directory that `cpool run` wrote; an interrupted run: `--resume`.",
        )
    return check_results(read_json(file), source=str(file))


def check_results(results: Any, source: str = "the results") -> dict[str, Any]:
    """Return `results` if they have the shape of a results.json.

    Raises:
        DataError: a newer schema, no runs, or a run whose numbers are none.
    """
    if not isinstance(results, dict) or not isinstance(results.get("runs"), list):
        raise _broken(source, 'an object with a list "runs"', type(results).__name__)
    if results.get("schema", SCHEMA) != SCHEMA:
        raise DataError(
            expected=f"results of schema {SCHEMA} in {source}",
            got=f"schema {results['schema']!r}",
            remedy="Read them with the version of cpool that wrote them, or a newer one.",
        )
    if not results["runs"]:
        raise _broken(source, "at least one run", "an empty list")
    for k, run in enumerate(results["runs"]):
        _check_run(run, f"runs[{k}] of {source}")
    return results


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
        setting = (_fingerprint(one, "backbone"), _fingerprint(one, "stream"))
        for label, runs in groups.items():
            method, role = runs[0]["method"], _role(runs[0], baselines)
            rows.append(Row(name, label, method, role, tuple(runs), setting))
    return rows


def notes_of(results: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what a reader must know of the runs: not complete, or measured on validation data."""
    several = [results] if isinstance(results, Mapping) else list(results)
    notes = []
    for one in several:
        name = str(one.get("name") or "This run")
        if one.get("complete") is False:
            notes.append(f"{name} is not complete: only its finished runs are shown.")
        if one.get("evaluated_on", "test") != "test":
            notes.append(f"{name} was measured on {one['evaluated_on']} data, not on test data.")
    return notes


def _role(run: Mapping[str, Any], baselines: Collection[str]) -> Role:
    if run.get("joint", run["method"] in UPPER_BOUNDS):
        return "upper bound"
    return "prompts" if run.get("prompts", run["method"] not in baselines) else "baseline"


def _fingerprint(results: Mapping[str, Any], key: str) -> str:
    part = results.get(key) or {}
    return str(part.get("fingerprint") or part.get("name") or "")


def _per_sample(run: Mapping[str, Any]) -> float | None:
    seconds, sizes = run.get("predict_seconds"), run.get("test_sizes") or []
    total = sum(n for n in sizes if n)
    return 1000 * seconds / total if seconds is not None and total else None


def _bare(run: Mapping[str, Any]) -> dict[str, Any]:
    return {"accuracy_matrix": run["accuracy_matrix"], "test_sizes": run.get("test_sizes")}


def _check_run(run: Any, source: str) -> None:
    if not isinstance(run, dict) or not isinstance(run.get("method"), str):
        raise _broken(source, 'an object with a "method"', repr(run)[:60])
    for key in ("average_accuracy", "average_incremental_accuracy", "forgetting", *_NUMBERS):
        if not isinstance(run.get(key), int | float | None) or isinstance(run.get(key), bool):
            raise _broken(source, f"a number or null for {key!r}", repr(run[key])[:60])
    try:
        if run.get("accuracy_matrix"):
            AccuracyMatrix.from_json(_bare(run))
    except MetricError as error:
        raise _broken(source, error.expected, error.got) from error


_NUMBERS = (
    "average_accuracy_weighted",
    "backward_transfer",
    "forward_transfer",
    "learning_accuracy",
    "trainable_parameters",
    "bytes_per_task",
    "total_bytes",
    "train_seconds",
    "predict_seconds",
    "peak_memory_bytes",
    "flops_per_sample",
)


def _broken(source: str, expected: str, got: str) -> DataError:
    return DataError(
        expected=f"{expected} in {source}",
        got=got,
        remedy="Restore the file from a copy, or run the experiment again.",
    )
