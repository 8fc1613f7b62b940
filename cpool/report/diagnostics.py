"""What the slots of a run do: `diagnostics/<label>-seed<k>.json`, one seed of each label."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpool._io import read_json
from cpool.errors import CheckpointError, DataError

__all__ = ["Diagnostic", "load_diagnostics"]

NAME = re.compile(r"(?P<label>.+)-seed(?P<seed>\d+)\.json")


@dataclass(frozen=True)
class Diagnostic:
    """The branches and queries of one label and seed, checked; `seeds` counts the files there."""

    label: str
    seed: int
    seeds: int
    branches: list[dict[str, Any]]
    queries: list[dict[str, Any]]


def load_diagnostics(run_dir: Path) -> tuple[list[Diagnostic], list[str]]:
    """Read the lowest seed of every label, and say in plain sentences what could not be read."""
    files: dict[str, list[tuple[int, Path]]] = {}
    problems: list[str] = []
    for path in sorted((run_dir / "diagnostics").glob("*.json")):
        found = NAME.fullmatch(path.name)
        if found:
            files.setdefault(found["label"], []).append((int(found["seed"]), path))
        else:
            problems.append(f"{path.name} was left out: its name is not LABEL-seedNUMBER.json.")
    diagnostics = []
    for label, found_files in files.items():
        seed, path = min(found_files)
        try:
            branches, queries = _checked(read_json(path), path.name)
        except (CheckpointError, DataError) as error:
            problems.append(f"{path.name} could not be read: {error.got}.")
            continue
        diagnostics.append(Diagnostic(label, seed, len(found_files), branches, queries))
    return diagnostics, problems


def _checked(content: Any, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    try:
        branches = [_branch(branch) for branch in content["branches"]]
        queries = [
            {"task": int(query["task"]), "xy": _points(query["xy"])}
            for query in content.get("queries") or []
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            expected=f"branches with slots and usage, and queries, in {name}",
            got=f"{type(error).__name__}: {error}",
            remedy="Make the diagnostics again with `cpool run`.",
        ) from error
    return branches, queries


def _branch(branch: dict[str, Any]) -> dict[str, Any]:
    slots = [dict(slot) for slot in branch["slots"]]
    usage = branch.get("usage") or None  # empty when no policy chose anything
    if usage is not None:
        counts = np.array(usage, dtype=float)
        if counts.ndim != 2 or counts.shape[1] != len(slots) or not (counts >= 0).all():
            raise ValueError(f"usage of shape {counts.shape} for {len(slots)} slots")
    keys = branch.get("keys")
    return {
        "name": str(branch["name"]),
        "site": str(branch.get("site", "")),
        "slots": slots,
        "usage": usage,
        "keys": None if keys is None else _points(keys),
    }


def _points(points: Any) -> list[tuple[float, float]]:
    values = [(float(x), float(y)) for x, y in points]
    if not np.isfinite(np.array(values)).all():
        raise ValueError("a point that is not finite")
    return values
