"""search.json: the trials of a search, written after each, and believed only by the same search."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpool._io import read_json, write_json
from cpool.errors import CheckpointError, ConfigError
from cpool.experiment.config import Candidate, MethodEntry

__all__ = ["SCHEMA", "TrialLog", "identity", "jsonable"]

SCHEMA = 1


class TrialLog:
    """The trials that are done, in memory and in a file.

    Args:
        file: where they are kept; those in it are taken over.
        head: what must agree for trials to be those of this search.
        source: another search.json, or its folder, to start from while `file` does not exist.

    Raises:
        ConfigError: the trials are of another search.
        CheckpointError: a file cannot be read.
    """

    def __init__(self, file: Path, head: Mapping[str, Any], source: Path | None = None) -> None:
        self.file, self.head = file, head
        self.writes = True  # of several processes, one does
        path = file if file.is_file() else source
        self.trials: list[dict[str, Any]] = [] if path is None else self._read(path)

    def _read(self, path: Path) -> list[dict[str, Any]]:
        path = path / "search.json" if path.is_dir() else path
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("trials"), list):
            raise CheckpointError(
                expected=f"the trials of a search in {path}",
                got="something else",
                remedy="Name a search.json that `cpool run` wrote, or its folder.",
            )
        wrong = [key for key in self.head if content.get(key) != self.head[key]]
        if wrong:
            raise ConfigError(
                expected="the trials of the same search",
                got=f"another one in {path}; these differ: {', '.join(wrong)}",
                remedy="Delete search.json or name another folder, to search anew.",
            )
        return list(content["trials"])

    def find(self, entry: MethodEntry, candidate: Candidate) -> dict[str, Any] | None:
        """Return the trial of a candidate, None when it is not done."""
        wanted = identity(entry, candidate)
        for trial in self.trials:
            if {key: trial.get(key) for key in wanted} == wanted:
                return trial
        return None

    def add(self, trial: dict[str, Any]) -> None:
        """Keep a trial, in the file too."""
        self.trials.append(trial)
        self.write()

    def write(self) -> None:
        """Replace the file, atomically."""
        if self.writes:
            write_json(self.file, {**self.head, "trials": self.trials})


def identity(entry: MethodEntry, candidate: Candidate) -> dict[str, Any]:
    """Return what makes a trial the trial of this candidate: all of its settings."""
    return {
        "label": entry.label,
        "method": candidate.method.name,
        "hyper_parameters": jsonable(candidate.method.hyper_parameters()),
        "train": dict(candidate.train.__dict__),
    }


def jsonable(value: Any) -> Any:
    """Return tables and lists as JSON gives them back.

    >>> jsonable({"layers": (0, 1)})
    {'layers': [0, 1]}
    """
    if isinstance(value, Mapping):
        return {k: jsonable(v) for k, v in value.items()}
    return [jsonable(v) for v in value] if isinstance(value, list | tuple) else value
