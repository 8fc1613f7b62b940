"""Search: the trials of every method, kept in search.json as they end, and what they choose."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpool._version import __version__
from cpool.backbones import Backbone
from cpool.cache import QueryCache
from cpool.data import PreparedCache
from cpool.errors import ConfigError, CpoolError, need_extra
from cpool.experiment.code import source_digest
from cpool.experiment.config import Candidate, Experiment, MethodEntry, SearchPlan
from cpool.experiment.drawn import candidate_of, drawn_identity, drawn_trials, next_point
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
    """A candidate of a row, and its number among the row's trials, from 1.

    One that is drawn depends on the trials before it: its candidate is None until its turn.
    """

    entry: MethodEntry
    candidate: Candidate | None
    number: int


class Search:
    """Tries the candidates of every row, of a grid or drawn, on validation data; chooses the best.

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
        MissingDependencyError: trials are drawn, and optuna is not installed.
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
        if self.plan.sampler == "optuna":
            need_extra("search", "optuna")
        self.make, self.progress, self.backbone = make, progress, backbone
        self.entries = experiment.methods
        self.stream: Stream = trial_stream(experiment, self.plan, backbone)
        self.head = self._head(experiment)
        self.log = TrialLog(file, self.head, source)
        self._cache, self._prepared, self._warm = QueryCache(), PreparedCache(), False

    def _head(self, experiment: Experiment) -> dict[str, Any]:
        """Return what must agree for trials to be those of this search, the code included."""
        spec = self.backbone.spec()
        query = ("name", "fingerprint", "pooling", "normalize", "layers")
        return {
            "schema": SCHEMA,
            "name": experiment.name,
            "version": __version__,
            "code": source_digest(),
            "search": self.plan.options(),
            "backbone": {key: spec[key] for key in query},
            "stream": {**jsonable(experiment.stream), "fingerprint": self.stream.fingerprint},
            "train_samples": sum(len(task.train) for task in self.stream),
            "validation_samples": sum(len(task.test) for task in self.stream),
        }

    @property
    def rows(self) -> list[MethodEntry]:
        """The rows that have something to try and nothing chosen in the file."""
        return [entry for entry in self.entries if entry.trials and entry.chosen is None]

    @property
    def planned(self) -> int:
        """How many trials there are."""
        return sum(entry.trials for entry in self.rows)

    @property
    def todo(self) -> list[Trial]:
        """The trials that are not done, row by row, in the order of the grids."""
        return [trial for entry in self.rows for trial in self._todo(entry)]

    def _todo(self, entry: MethodEntry) -> list[Trial]:
        if entry.space is not None:
            done = len(drawn_trials(entry, self.log))
            return [Trial(entry, None, number + 1) for number in range(done, entry.trials)]
        return [
            Trial(entry, candidate, number)
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
        for trial in self.progress.track(self.todo, "trials"):
            record = self.one(trial)
            self.log.add(record)
            on_trial(trial, record)
        # Runs have features of their own, and the memory that they take is measured.
        self._cache, self._prepared, self._warm = QueryCache(), PreparedCache(), False
        self.log.write()

    def one(self, trial: Trial) -> dict[str, Any]:
        """Do one trial, and return its entry in search.json, which is not written.

        One that is drawn needs all before it in the log.
        """
        if trial.candidate is None:
            return self._drawn(trial)
        known = identity(trial.entry, trial.candidate)
        return {**known, **self._measured(trial.candidate)}

    def _drawn(self, trial: Trial) -> dict[str, Any]:
        """Draw what to try and do it; what was drawn before is not trained again."""
        entry, done = trial.entry, drawn_trials(trial.entry, self.log)
        assert trial.number == len(done) + 1
        point = next_point(entry, done, self.plan.seed)
        settings = jsonable(point)
        candidate, fault = candidate_of(entry, point)
        known = drawn_identity(entry, candidate, trial.number)
        for _, earlier in done:
            if earlier["settings"] == settings:
                return {**earlier, **known, "seconds": 0.0}
        if candidate is None:
            return {**known, **self._record(settings, None, 0.0, fault)}
        return {**known, **self._measured(candidate)}

    def _measured(self, candidate: Candidate) -> dict[str, Any]:
        if not self._warm:
            warm(self.backbone, self.stream, self._cache, self.progress)
            self._warm = True
        started, accuracies, fault = time.perf_counter(), None, None
        try:
            learner = self.make(candidate, self.plan.seed, self._cache, self._prepared)
            accuracies = run_trial(learner, self.stream)
        except CpoolError as error:  # a rate that is too high ends in no finite loss
            fault = str(error)
        seconds = time.perf_counter() - started
        return self._record(jsonable(candidate.settings), accuracies, seconds, fault)

    def _record(
        self, settings: Any, accuracies: list[float] | None, seconds: float, fault: str | None
    ) -> dict[str, Any]:
        return {
            "settings": settings,
            "seed": self.plan.seed,
            "accuracies": accuracies,
            "accuracy": None if accuracies is None else sum(accuracies) / len(accuracies),
            "seconds": seconds,
            "error": fault,
        }

    def chosen(self) -> dict[str, Candidate]:
        """Return the best candidate of every row, by label: highest accuracy, ties to the first.

        Raises:
            ConfigError: none of a row's trials ended with an accuracy.
        """
        return {entry.label: self._best(entry)[0] for entry in self.rows}

    def _trials(self, entry: MethodEntry) -> list[tuple[Candidate | None, dict[str, Any]]]:
        if entry.space is not None:
            return drawn_trials(entry, self.log)
        found = [(candidate, self.log.find(entry, candidate)) for candidate in entry.candidates]
        return [(candidate, trial) for candidate, trial in found if trial is not None]

    def _best(self, entry: MethodEntry) -> tuple[Candidate, dict[str, Any]]:
        trials = self._trials(entry)
        scored = [(c, t) for c, t in trials if c is not None and t["accuracy"] is not None]
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
        if not entry.trials:
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
        plan = self.plan.options()
        if "trials" in plan:
            plan["trials_each"] = plan.pop("trials")
        return {
            **plan,
            "train_samples": self.head["train_samples"],
            "validation_samples": self.head["validation_samples"],
            "trials": sum(record["trials"] for record in known),
            "seconds": sum(record["seconds"] for record in known),
        }
