"""Search: the trials of every method, kept in search.json as they end, and what they choose."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpool._version import __version__
from cpool.backbones import Backbone
from cpool.cache import QueryCache
from cpool.data import PreparedCache
from cpool.errors import ConfigError, CpoolError
from cpool.experiment.code import source_digest
from cpool.experiment.config import Candidate, Experiment, MethodEntry, SearchPlan
from cpool.experiment.features import warm
from cpool.experiment.trial_log import SCHEMA, TrialLog, identity, jsonable
from cpool.experiment.trials import run_trial, trial_stream
from cpool.learner import Learner
from cpool.progress import Progress
from cpool.streams import Stream

__all__ = ["Search", "Trial"]

Make = Callable[[Candidate, int, QueryCache, PreparedCache], Learner]


@dataclass(frozen=True)
class Trial:
    """A candidate of a row, and its number among the row's candidates, from 1."""

    entry: MethodEntry
    candidate: Candidate
    number: int


class Search:
    """Tries every candidate of every row once, on validation data, and chooses the best.

    The features of the trials are kept apart from those of the runs: so these are computed in the
    same batches, and are the same to the last bit, whether the search was done before or not.

    Args:
        experiment: with `search` set.
        backbone: the frozen model.
        file: where the trials are kept; those in it are not done again.
        make: makes the learner of a candidate, with a seed and two caches.
        progress: bars.
        source: another search.json of the same search to start from, while `file` does not exist.

    Raises:
        ConfigError: `source` or `file` is of another search, or the plan does not fit the stream.
        CheckpointError: one of them cannot be read.
    """

    def __init__(
        self,
        experiment: Experiment,
        backbone: Backbone,
        file: Path,
        make: Make,
        progress: Progress,
        source: Path | None = None,
    ) -> None:
        assert experiment.search is not None
        self.plan: SearchPlan = experiment.search
        self.make, self.progress, self.backbone = make, progress, backbone
        self.entries = experiment.methods
        self.stream: Stream = trial_stream(experiment, self.plan, backbone)
        self.head = self._head(experiment)
        self.log = TrialLog(file, self.head, source)

    def _head(self, experiment: Experiment) -> dict[str, Any]:
        """Return what must agree for trials to be those of this search, the code included."""
        spec = self.backbone.spec()
        query = ("name", "fingerprint", "pooling", "normalize", "layers")
        return {
            "schema": SCHEMA,
            "name": experiment.name,
            "version": __version__,
            "code": source_digest(),
            "search": asdict(self.plan),
            "backbone": {key: spec[key] for key in query},
            "stream": {**jsonable(experiment.stream), "fingerprint": self.stream.fingerprint},
            "train_samples": sum(len(task.train) for task in self.stream),
            "validation_samples": sum(len(task.test) for task in self.stream),
        }

    @property
    def rows(self) -> list[MethodEntry]:
        """The rows that have candidates and nothing chosen in the file."""
        return [entry for entry in self.entries if entry.candidates and entry.chosen is None]

    @property
    def planned(self) -> int:
        """How many trials there are."""
        return sum(len(entry.candidates) for entry in self.rows)

    @property
    def todo(self) -> list[Trial]:
        """The trials that are not done, row by row, in the order of the grids."""
        return [
            Trial(entry, candidate, number)
            for entry in self.rows
            for number, candidate in enumerate(entry.candidates, start=1)
            if self.log.find(entry, candidate) is None
        ]

    def run(self, on_trial: Callable[[Trial, dict[str, Any]], None]) -> None:
        """Do the trials that are not done yet; write search.json after each.

        Args:
            on_trial: called after each, with its entry in search.json.

        Raises:
            ConfigError: all trials of a row failed.
        """
        todo = self.todo
        if todo:
            cache, prepared = QueryCache(), PreparedCache()
            warm(self.backbone, self.stream, cache, self.progress)
            for trial in self.progress.track(todo, "trials"):
                record = self._one(trial, cache, prepared)
                self.log.add(record)
                on_trial(trial, record)
        self.log.write()

    def _one(self, trial: Trial, cache: QueryCache, prepared: PreparedCache) -> dict[str, Any]:
        started, accuracies, fault = time.perf_counter(), None, None
        try:
            learner = self.make(trial.candidate, self.plan.seed, cache, prepared)
            accuracies = run_trial(learner, self.stream)
        except CpoolError as error:  # a rate that is too high ends in no finite loss
            fault = str(error)
        return {
            **identity(trial.entry, trial.candidate),
            "settings": jsonable(trial.candidate.settings),
            "seed": self.plan.seed,
            "accuracies": accuracies,
            "accuracy": None if accuracies is None else sum(accuracies) / len(accuracies),
            "seconds": time.perf_counter() - started,
            "error": fault,
        }

    def chosen(self) -> dict[str, Candidate]:
        """Return the best candidate of every row, by label: highest accuracy, ties to the first.

        Raises:
            ConfigError: none of a row's trials ended with an accuracy.
        """
        return {entry.label: self._best(entry)[0] for entry in self.rows}

    def _trials(self, entry: MethodEntry) -> list[tuple[Candidate, dict[str, Any]]]:
        found = [(candidate, self.log.find(entry, candidate)) for candidate in entry.candidates]
        return [(candidate, trial) for candidate, trial in found if trial is not None]

    def _best(self, entry: MethodEntry) -> tuple[Candidate, dict[str, Any]]:
        trials = self._trials(entry)
        scored = [(c, trial) for c, trial in trials if trial["accuracy"] is not None]
        if not scored:
            last = trials[-1][1]["error"] if trials else "no trial was done"
            raise ConfigError(
                expected=f"a trial of {entry.label!r} that ends with an accuracy",
                got=f"none; the last one: {last}",
                remedy="Change its grid.",
            )
        return max(scored, key=lambda pair: pair[1]["accuracy"])  # max keeps the first of equals

    def record(self, entry: MethodEntry) -> dict[str, Any] | None:
        """Return what a run's results say of the search; None for a row without a grid."""
        if not entry.candidates:
            return None
        if entry.label not in [row.label for row in self.rows]:
            assert entry.chosen is not None
            settings = jsonable(entry.chosen.settings)
            return {"trials": 0, "chosen": settings, "validation_accuracy": None, "seconds": None}
        candidate, best = self._best(entry)
        trials = [trial for _, trial in self._trials(entry)]
        return {
            "trials": len(trials),
            "chosen": jsonable(candidate.settings),
            "validation_accuracy": best["accuracy"],
            "seconds": sum(trial["seconds"] for trial in trials),
        }

    def summary(self) -> dict[str, Any]:
        """Return what the results say of the whole search."""
        records = [self.record(entry) for entry in self.rows]
        known = [record for record in records if record is not None]
        return {
            **asdict(self.plan),
            "train_samples": self.head["train_samples"],
            "validation_samples": self.head["validation_samples"],
            "trials": sum(record["trials"] for record in known),
            "seconds": sum(record["seconds"] for record in known),
        }
