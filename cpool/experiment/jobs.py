"""The runs of an experiment in the order of work: seed by seed, all methods with each."""

from dataclasses import dataclass

from cpool.experiment.config import Experiment, MethodEntry

__all__ = ["Job", "jobs_of"]


@dataclass(frozen=True)
class Job:
    """One run: a method with a seed, and its number in the order of work."""

    number: int
    entry: MethodEntry
    seed: int


def jobs_of(experiment: Experiment) -> list[Job]:
    """Return all runs, with the chosen settings where a search has chosen."""
    pairs = [(seed, entry.final) for seed in experiment.seeds for entry in experiment.methods]
    return [Job(number, entry, seed) for number, (seed, entry) in enumerate(pairs, start=1)]
