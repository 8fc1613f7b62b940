"""RunFolder: the files of one experiment, and what may be continued."""

import contextlib
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from cpool._io import read_json, write_bytes, write_json
from cpool.errors import CheckpointError, ConfigError
from cpool.experiment.lock import FolderLock
from cpool.experiment.reading import read_experiment

__all__ = ["RunFolder"]

_OURS = (
    "config.toml",
    "results.json",
    "search.json",
    "environment.json",
    "checkpoints",
    "diagnostics",
)
_MARK = "\0"  # between the label of a method and its key, since a label may have dots
_CHOSEN = re.compile(rf"method\..*{_MARK}chosen\.", re.DOTALL)


class RunFolder:
    """A run directory; nothing is written before `open`.

    Args:
        path: the directory; made when it is not there.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.results = self.path / "results.json"
        self.search = self.path / "search.json"
        self.config = self.path / "config.toml"
        self.chosen = self.path / "chosen.toml"
        self.environment = self.path / "environment.json"
        self.report = self.path / "report.html"
        self.writes = True  # of several processes, one does
        self._lock = FolderLock(self.path)

    def checkpoint(self, label: str, seed: int) -> Path:
        """Return the folder of a run's checkpoint."""
        return self.path / "checkpoints" / label / f"seed{seed}"

    def diagnostics(self, label: str, seed: int) -> Path:
        """Return the file of a run's diagnostics."""
        return self.path / "diagnostics" / f"{label}-seed{seed}.json"

    def check(self, config: Mapping[str, Any], resume: bool) -> None:
        """Refuse a folder that holds another experiment, or this one without `resume`.

        An experiment may have got more methods since: what was measured of the others stays.

        Args:
            config: the resolved experiment.
            resume: go on with what is there.

        Raises:
            ConfigError: the folder is in use; with `resume`, the keys that differ are named.
            CheckpointError: it cannot be written, or its config.toml is damaged.
        """
        self._check_writable()
        found = [name for name in _OURS if (self.path / name).exists()]
        if not found:
            return
        if not self.config.is_file():
            raise ConfigError(
                expected=f"an empty output folder or a run with a config.toml in {self.path}",
                got=f"{', '.join(found)} and no config.toml",
                remedy="Choose another folder with --out.",
            )
        differing = _differences(self._stored(), dict(config))
        if differing:  # an older version's file has no options that are newer, at their defaults
            differing = _differences(self._read_again(), dict(config))
        # A row that was not run, for a reason that was given, may be run now.
        more = {f"{part}.{label}" for label in self._more(config) for part in ("method", "not_run")}
        if not set(differing) <= more:
            raise ConfigError(
                expected=f"a new output folder, or the same experiment in {self.path}",
                got=f"another one; these keys differ: {', '.join(differing)}",
                remedy="Choose another folder with --out, or undo these changes and --resume; "
                "methods may be added.",
            )
        if not resume:
            raise ConfigError(
                expected="a new output folder",
                got=f"{self.path}, which holds this experiment already",
                remedy="Add --resume to go on with it, or choose another folder with --out.",
            )

    def _check_writable(self) -> None:
        """Try to write, and leave no trace of it."""
        made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            raise CheckpointError(
                expected=f"an output folder that can be written, {self.path}",
                got=f"{type(error).__name__}: {error.strerror or error}",
                remedy="Choose another folder with --out; nothing was changed.",
            ) from error
        finally:
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def open(self, config: Mapping[str, Any]) -> None:
        """Make the folder, keep other runs out of it, and write config.toml.

        Raises:
            CheckpointError: the folder cannot be written.
            ConfigError: another run is writing to it.
        """
        if not self.writes:
            return
        self._lock.take()
        if not self.config.is_file() or self._more(config):
            self.write_config(config)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace config.toml, atomically; a search adds what it chose."""
        if not self.writes:
            return
        header = "# The experiment as resolved; `cpool run` on this file repeats it.\n"
        write_bytes(self.config, (header + tomli_w.dumps(dict(config))).encode())

    def write_chosen(self, config: Mapping[str, Any]) -> None:
        """Write chosen.toml, an experiment that has what a search chose and no search."""
        if not self.writes:
            return
        header = "# What the search chose; `cpool run` on this file does no search.\n"
        write_bytes(self.chosen, (header + tomli_w.dumps(dict(config))).encode())

    def finished(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Return the runs in results.json by label and seed; none when there is no such file."""
        if not self.results.is_file():
            return {}
        runs = read_json(self.results).get("runs", [])
        return {(run["label"], run["seed"]): run for run in runs}

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Replace results.json, atomically."""
        if self.writes:
            write_json(self.results, results)

    def write_diagnostics(self, label: str, seed: int, drawn: Mapping[str, Any]) -> None:
        """Write the diagnostics of a run."""
        if self.writes:
            write_json(self.diagnostics(label, seed), drawn)

    def close(self) -> None:
        """Let other runs have the folder."""
        self._lock.release()

    def _read_again(self) -> dict[str, Any]:
        """Return the stored experiment as this version reads it; if it cannot, as it stands."""
        try:
            return read_experiment(self.config).resolved()
        except ConfigError:
            return self._stored()

    def _more(self, config: Mapping[str, Any]) -> list[str]:
        """Return the labels of methods that the folder's experiment does not have."""
        had = {entry.get("label") for entry in self._stored().get("method", [])}
        return [entry["label"] for entry in config["method"] if entry["label"] not in had]

    def _stored(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                expected=f"a readable {self.config}",
                got=f"{type(error).__name__}: {error}",
                remedy="Restore the file from a copy, or choose another folder with --out.",
            ) from error


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the dotted keys whose values differ; a description and trackers may change.

    A method that only one of them has is named by its label. What a search chose stands in the
    folder and not in the file that asked for the search.
    """
    # Through TOML and back, so that both sides hold what a file can hold.
    old, new = _flat(then), _flat(tomllib.loads(tomli_w.dumps(now)))
    gone = [key for key in old if key not in new]
    keys = [*new, *(key for key in gone if not _CHOSEN.match(key))]
    free = ("description", "trackers")
    rows = {f"method.{entry.get('label')}" for entry in then.get("method", [])}
    alone = rows ^ {f"method.{entry.get('label')}" for entry in now.get("method", [])}
    found = [key for key in keys if key not in free and old.get(key) != new.get(key)]
    split = [key.partition(_MARK) for key in found]
    named = [row if row in alone else f"{row}.{key}" if key else row for row, _, key in split]
    return list(dict.fromkeys(named))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if prefix == "method" and isinstance(value, list):
        return {
            f"method.{method.get('label')}{_MARK}{key}": inner
            for method in value
            for key, inner in _flat(method).items()
        }
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return flat
