"""Runner: every method with every seed on one stream, one folder of results."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cpool._io import write_json
from cpool.backbones import Backbone
from cpool.cache import QueryCache
from cpool.data import PreparedCache
from cpool.device import make_accelerator
from cpool.errors import CpoolError
from cpool.experiment.checking import in_file
from cpool.experiment.config import Experiment, MethodEntry
from cpool.experiment.diagnostics import describe_pools
from cpool.experiment.environment import Clock
from cpool.experiment.features import untrained_accuracy, warm
from cpool.experiment.folder import RunFolder
from cpool.experiment.parts import open_backbone, open_stream
from cpool.experiment.results import results_document, run_record
from cpool.learner import Learner
from cpool.meter import PeakMemory
from cpool.progress import Progress
from cpool.seeding import seeded
from cpool.streams import Stream

__all__ = ["Job", "Runner"]


@dataclass(frozen=True)
class Job:
    """One run: a method with a seed, and its number in the order of work."""

    number: int
    entry: MethodEntry
    seed: int


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
    ) -> None:
        self.experiment, self.folder = experiment, folder
        self.progress = progress or Progress(quiet=True)
        folder.check(experiment.resolved(), resume)
        if experiment.threads is not None:
            torch.set_num_threads(experiment.threads)
        self.accelerator = make_accelerator(device)
        with _named(experiment, "the stream"):
            open_stream(experiment, experiment.seeds[0])  # before the weights are loaded
        with _named(experiment, "the backbone"):
            backbone = open_backbone(experiment.backbone)
        self.backbone: Backbone = backbone.to(self.accelerator.device)
        with _named(experiment, "the stream"):
            self.stream = open_stream(experiment, experiment.seeds[0], self.backbone)
        self.cache, self.features_seconds = QueryCache(), 0.0
        for entry in experiment.methods:
            with _named(experiment, f"the method {entry.label!r}"):
                self._check(entry)
        self.jobs = [
            Job(number, entry, seed)
            for number, (seed, entry) in enumerate(
                ((s, e) for s in experiment.seeds for e in experiment.methods), start=1
            )
        ]
        self.records = folder.finished() if resume else {}

    def _check(self, entry: MethodEntry) -> None:
        """Build the method once, and look at what would only fail in training."""
        learner = self._learner(entry, self.experiment.seeds[0], PreparedCache())
        learner._max_tokens()
        for task in self.stream:
            learner._check_trainable(task.classes, task.name)

    def _learner(self, entry: MethodEntry, seed: int, prepared: PreparedCache) -> Learner:
        with seeded(seed, "build"):
            model = entry.method.build(self.backbone)
        return Learner(
            model,
            entry.train,
            seed=seed,
            cache=self.cache,
            prepared=prepared,
            accelerator=self.accelerator,
            progress=self.progress,
        )

    @property
    def finished(self) -> int:
        """How many runs are done."""
        return len(self.records)

    def run(self, on_finish: Callable[[Job, dict[str, Any]], None]) -> dict[str, Any]:
        """Do the runs that are not done yet, seed by seed, and return the results.

        Args:
            on_finish: called after each run, with its entry in the results.

        Raises:
            CheckpointError: the folder cannot be written, or holds a damaged checkpoint.
        """
        self.folder.open(self.experiment.resolved())
        clock = Clock(self.folder.environment, str(self.accelerator.device))
        todo = [job for job in self.jobs if (job.entry.label, job.seed) not in self.records]
        seed, stream, prepared = None, self.stream, PreparedCache()
        for job in self.progress.track(todo, "runs"):
            if job.seed != seed:
                # Prepared images belong to the splits of one seed, so a new seed starts anew.
                seed, stream, prepared = job.seed, self.stream_of(job.seed), PreparedCache()
                self._warm(stream)
            record = self._one(job, stream, prepared)
            self.records[job.entry.label, job.seed] = record
            self.folder.write_results(self.results())
            clock.write()
            on_finish(job, record)
        return self.results()

    def stream_of(self, seed: int) -> Stream:
        """Return the stream as runs with `seed` see it."""
        if seed == self.experiment.seeds[0] or "seed" in self.experiment.stream:
            return self.stream
        return open_stream(self.experiment, seed, self.backbone)

    def _warm(self, stream: Stream) -> None:
        started = time.perf_counter()
        warm(self.backbone, stream, self.cache, self.progress)
        self.features_seconds += time.perf_counter() - started

    def _one(self, job: Job, stream: Stream, prepared: PreparedCache) -> dict[str, Any]:
        learner = self._learner(job.entry, job.seed, prepared)
        memory = PeakMemory(self.accelerator.device)
        with memory.measure():
            learner.run(stream, self.folder.checkpoint(job.entry.label, job.seed), resume=True)
        untrained = None
        if stream.scenario == "domain" and not job.entry.method.joint:
            untrained = untrained_accuracy(self.backbone, stream, self.cache, job.seed)
        drawn = describe_pools(learner, stream)
        if drawn is not None:
            write_json(self.folder.diagnostics(job.entry.label, job.seed), drawn)
        return run_record(learner, job.entry, stream, peak_memory=memory.peak, untrained=untrained)

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
        )


@contextlib.contextmanager
def _named(experiment: Experiment, what: str) -> Iterator[None]:
    """Name the file in errors of parts that know of no file."""
    try:
        yield
    except CpoolError as error:
        raise in_file(error, experiment.source, what) from error
