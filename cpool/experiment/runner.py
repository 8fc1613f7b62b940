"""Runner: every method with every seed on one stream, one folder of results."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cpool.backbones import Backbone
from cpool.cache import QueryCache
from cpool.data import PreparedCache
from cpool.device import make_accelerator
from cpool.experiment.checking import named
from cpool.experiment.checks import check_row
from cpool.experiment.config import Candidate, Experiment, MethodEntry
from cpool.experiment.diagnostics import describe_pools
from cpool.experiment.environment import Clock
from cpool.experiment.features import untrained_accuracy, warm
from cpool.experiment.folder import RunFolder
from cpool.experiment.jobs import Job, jobs_of
from cpool.experiment.parts import open_backbone, open_stream
from cpool.experiment.results import results_document, run_record
from cpool.experiment.search import Search, Trial
from cpool.learner import Learner
from cpool.meter import PeakMemory
from cpool.processes import Processes
from cpool.progress import Progress
from cpool.seeding import seeded
from cpool.streams import Stream
from cpool.trackers import Trackers, check_trackers

__all__ = ["Runner"]


class Runner:
    """Runs an experiment, and keeps what it measured after every run.

    Making one checks all that is cheap (folder, stream, backbone, that every method builds) and
    writes nothing.

    Args:
        experiment: what to do.
        folder: where it goes.
        device: of the models; what accelerate finds by default.
        resume: go on with what the folder holds.
        progress: bars; none by default.
        trials_from: a search.json, or its folder, whose trials are taken over.

    Raises:
        CpoolError: whatever will not work.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        *,
        device: str | None = None,
        resume: bool = False,
        progress: Progress | None = None,
        trials_from: Path | None = None,
    ) -> None:
        self.experiment, self.folder = experiment, folder
        self.progress = progress or Progress(quiet=True)
        folder.check(experiment.resolved(), resume)
        with named(experiment.source, "trackers"):
            check_trackers(experiment.trackers)
        if experiment.threads is not None:
            torch.set_num_threads(experiment.threads)
        self.accelerator = make_accelerator(device, experiment.precision)
        self.processes = Processes(self.accelerator)
        folder.writes = self.processes.writes
        with named(experiment.source, "the stream"):
            open_stream(experiment, experiment.seeds[0])  # before the weights are loaded
        with named(experiment.source, "the backbone"):
            backbone = open_backbone(experiment.backbone, experiment)
        self.backbone: Backbone = backbone.to(self.accelerator.device)
        with named(experiment.source, "the stream"):
            self.stream = open_stream(experiment, experiment.seeds[0], self.backbone)
        self.cache, self.features_seconds, self.features_samples = QueryCache(), 0.0, 0
        self.search = self._search(trials_from)
        for entry in experiment.methods:
            with named(experiment.source, f"the method {entry.label!r}"):
                self._check(entry)
        self._seed: int | None = None
        self._stream, self._prepared = self.stream, PreparedCache()
        self.jobs = jobs_of(experiment)
        self.records = folder.finished() if resume else {}

    def _search(self, trials_from: Path | None) -> Search | None:
        if self.experiment.search is None:
            return None
        with named(self.experiment.source, "the search"):
            search = Search(
                self.experiment,
                self.backbone,
                self.folder.search,
                self._learner,
                self.progress,
                trials_from,
            )
        search.log.writes = self.processes.writes
        return search

    def _check(self, entry: MethodEntry) -> None:
        """Build the method once, or what a search will try, on the streams they will see."""
        streams = [self.stream]
        candidates = [Candidate({}, entry.final.method, entry.final.train)]
        if self.search is not None and entry in self.search.rows:
            candidates, streams = list(entry.samples), [self.stream, self.search.stream]
        for candidate in candidates:
            learner = self._learner(candidate, self.experiment.seeds[0])
            for stream in streams:
                check_row(candidate.method, learner, stream)

    def _learner(
        self,
        row: Candidate | MethodEntry,
        seed: int,
        cache: QueryCache | None = None,
        prepared: PreparedCache | None = None,
        trackers: Trackers | tuple[str, ...] = (),
    ) -> Learner:
        with seeded(seed, "build"):
            model = row.method.build(self.backbone)
        return Learner(
            model,
            row.train,
            seed=seed,
            cache=self.cache if cache is None else cache,
            prepared=prepared,
            trackers=trackers,
            accelerator=self.accelerator,
            progress=self.progress,
        )

    @property
    def finished(self) -> int:
        """How many runs are done."""
        return len(self.records)

    def tune(self, on_trial: Callable[[Trial, dict[str, Any]], None]) -> None:
        """Do the trials of the search that are not done yet, and go on with what they choose.

        Args:
            on_trial: called after each trial, with its entry in search.json.

        Raises:
            ConfigError: all trials of a method failed.
            CheckpointError: the folder cannot be written.
        """
        self.processes.wait()  # all have looked into the folder
        self.folder.open(self.experiment.resolved())
        if self.search is None:
            return
        clock = self.clock()
        with named(self.experiment.source, "the search"):
            self.search.run(on_trial)
            self.experiment = self.experiment.with_chosen(self.search.chosen())
        self.jobs = jobs_of(self.experiment)
        self.folder.write_config(self.experiment.resolved())
        self.folder.write_chosen(self.experiment.settled().resolved())
        clock.write()

    def run(
        self,
        on_finish: Callable[[Job, dict[str, Any]], None],
        on_trial: Callable[[Trial, dict[str, Any]], None] = lambda trial, record: None,
    ) -> dict[str, Any]:
        """Search, do the runs that are not done yet, seed by seed, and return the results.

        Args:
            on_finish: called after each run, with its entry in the results.
            on_trial: called after each trial of the search.

        Raises:
            CheckpointError: the folder cannot be written, or holds a damaged checkpoint.
        """
        try:
            self.tune(on_trial)
            clock = self.clock()
            for job in self.progress.track(self.todo, "runs"):
                record = self.one(job)
                self.keep(job, record, clock)
                on_finish(job, record)
            return self.results()
        finally:
            self.folder.close()

    @property
    def todo(self) -> list[Job]:
        """The runs that are not done yet."""
        return [job for job in self.jobs if (job.entry.label, job.seed) not in self.records]

    def keep(self, job: Job, record: dict[str, Any], clock: Clock) -> None:
        """Take the entry of a finished run into the results, and write them."""
        self.records[job.entry.label, job.seed] = record
        self.folder.write_results(self.results())
        clock.write()

    def clock(self) -> Clock:
        """Start to count the seconds of a sitting."""
        device = str(self.accelerator.device)
        return Clock(self.folder.environment, device, writes=self.folder.writes)

    def one(self, job: Job) -> dict[str, Any]:
        """Do one run, and return its entry in the results, which are not written."""
        if job.seed != self._seed:
            # Prepared images belong to the splits of one seed, so a new seed starts anew.
            self._seed, self._prepared = job.seed, PreparedCache()
            self._stream = self.stream_of(job.seed)
            self._warm(self._stream)
        return self._one(job, self._stream, self._prepared)

    def stream_of(self, seed: int) -> Stream:
        """Return the stream as runs with `seed` see it."""
        if seed == self.experiment.seeds[0] or "seed" in self.experiment.stream:
            return self.stream
        return open_stream(self.experiment, seed, self.backbone)

    def _warm(self, stream: Stream) -> None:
        started, before = time.perf_counter(), self.cache.misses
        warm(self.backbone, stream, self.cache, self.progress)
        self.features_seconds += time.perf_counter() - started
        self.features_samples += self.cache.misses - before

    def _one(self, job: Job, stream: Stream, prepared: PreparedCache) -> dict[str, Any]:
        trackers = self._trackers(job.entry.label)
        learner = self._learner(job.entry, job.seed, prepared=prepared, trackers=trackers)
        memory = PeakMemory(self.accelerator.device)
        with memory.measure():
            learner.run(stream, self.folder.checkpoint(job.entry.label, job.seed), resume=True)
        untrained = None
        if stream.scenario == "domain" and not job.entry.method.joint:
            untrained = untrained_accuracy(self.backbone, stream, self.cache, job.seed)
        drawn = describe_pools(learner, stream)
        if drawn is not None:
            self.folder.write_diagnostics(job.entry.label, job.seed, drawn)
        return run_record(
            learner,
            job.entry,
            stream,
            peak_memory=memory.peak,
            untrained=untrained,
            frozen_seconds=self.features_seconds / self.features_samples,
            search=None if self.search is None else self.search.record(job.entry),
        )

    def _trackers(self, label: str) -> Trackers:
        """Return trackers of one run; nothing is opened."""
        name = self.experiment.name
        names = () if self.experiment.dry_run else self.experiment.trackers
        return Trackers(names, self.folder.path / "tracking", project=name, label=label)

    def results(self) -> dict[str, Any]:
        """Return the content of results.json as of now."""
        keys = [(job.entry.label, job.seed) for job in self.jobs]
        return results_document(
            self.experiment,
            self.backbone,
            self.stream,
            [self.records[key] for key in keys if key in self.records],
            planned=len(self.jobs),
            features_seconds=self.features_seconds,
            search=None if self.search is None else self.search.summary(),
        )
