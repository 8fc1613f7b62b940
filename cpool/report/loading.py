"""Reading results.json: checked once, so that tables and page only compute."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpool._io import read_json
from cpool.errors import CheckpointError, DataError, MetricError
from cpool.metrics import AccuracyMatrix

__all__ = ["check_results", "load_results", "notes_of"]

SCHEMA = 1
_NUMBERS = (
    "average_accuracy",
    "average_accuracy_weighted",
    "average_incremental_accuracy",
    "forgetting",
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


def load_results(path: Path | str, *, dry: bool = False) -> dict[str, Any]:
    """Read the results.json at `path`, or in the run directory `path`, and check it.

    Args:
        path: the file or folder.
        dry: take those of a dry run too, whose figures mean nothing.

    Raises:
        CheckpointError: there is no such file, or it is not JSON.
        DataError: it holds something else than the results of a run, or those of a dry run.
    """
    path = Path(path)
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(
            expected=f"the results of a run in {file}",
            got="no such file",
            remedy="Give the directory that `cpool run` wrote; an interrupted run: `--resume`.",
        )
    results = check_results(read_json(file), source=str(file))
    if results.get("dry_run") and not dry:
        raise DataError(
            expected=f"the results of a real run in {file}",
            got="those of a dry run: random weights and made-up data",
            remedy="Run the experiment without --dry-run.",
        )
    return results


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
    for key in ("backbone", "stream", "train", "search"):
        if not isinstance(results.get(key), dict | None):
            raise _broken(source, f"an object for {key!r}", repr(results[key])[:60])
    for k, run in enumerate(results["runs"]):
        _check_run(run, f"runs[{k}] of {source}")
    return results


def notes_of(results: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what a reader must know: not complete, on validation data, what the search cost."""
    several = [results] if isinstance(results, Mapping) else list(results)
    notes = []
    for one in several:
        name = str(one.get("name") or "This run")
        if one.get("dry_run"):
            notes.append(f"{name} is a dry run on random weights: its figures mean nothing.")
        if one.get("complete") is False:
            notes.append(f"{name} is not complete: only its finished runs are shown.")
        if one.get("evaluated_on", "test") != "test":
            notes.append(f"{name} was measured on {one['evaluated_on']} data, not on test data.")
        if one.get("search"):
            notes.append(_search_note(one["search"], name if len(several) > 1 else ""))
    return notes


def _search_note(search: Mapping[str, Any], name: str) -> str:
    """Say what choosing the settings cost, in one line."""
    parts = [f"at most {search['budget']} trials a method", f"{search['trials']} in all"]
    parts.append(f"{search['seconds']:,.0f} s")
    parts.append(f"{search['validation_samples']:,} validation samples")
    reduced = []
    if search.get("train_per_class"):
        reduced.append(f"{search['train_per_class']} training samples a class")
    if search.get("first_tasks"):
        reduced.append(f"the first {search['first_tasks']} tasks")
    tail = f"; trials saw {' of '.join(reduced)}" if reduced else ""
    of = f" of {name}" if name else ""
    return f"Search{of} on validation data: {', '.join(parts)}{tail}."


def _check_run(run: Any, source: str) -> None:
    if not isinstance(run, dict) or not isinstance(run.get("method"), str):
        raise _broken(source, 'an object with a "method"', repr(run)[:60])
    for key in _NUMBERS:
        if not _is_number(run.get(key)):
            raise _broken(source, f"a finite number or null for {key!r}", repr(run[key])[:60])
    sizes = run.get("test_sizes") or []
    if not isinstance(sizes, list) or not all(map(_is_number, sizes)):
        raise _broken(source, "a list of numbers for 'test_sizes'", repr(sizes)[:60])
    try:
        if run.get("accuracy_matrix"):
            kept = {"accuracy_matrix": run["accuracy_matrix"], "test_sizes": sizes}
            AccuracyMatrix.from_json(kept)
    except MetricError as error:
        raise _broken(source, error.expected, error.got) from error


def _is_number(value: Any) -> bool:
    """Tell whether `value` is a finite number, or null: not measured."""
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    )


def _broken(source: str, expected: str, got: str) -> DataError:
    return DataError(
        expected=f"{expected} in {source}",
        got=got,
        remedy="Restore the file from a copy, or run the experiment again.",
    )
