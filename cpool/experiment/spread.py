"""Spread: the trials and runs of an experiment on the workers of a ray cluster."""

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpool.errors import ConfigError, StateError, need_extra
from cpool.experiment.jobs import Job, jobs_of
from cpool.experiment.runner import Runner
from cpool.experiment.search import Trial
from cpool.shards import lost_errors

__all__ = ["Spread"]

ATTEMPTS = 3


@dataclass
class _Task:
    """What a worker is asked for, how often it was lost, and what takes the answer."""

    call: tuple[Any, ...]
    done: Callable[[Any], None]
    lost: int = 0


class Spread:
    """Does what `Runner` does, each trial and each run on a worker of its own, through ray.

    A worker holds backbone and stream, and does one job after the other; what it measures comes
    back, and is written here as by a runner: the same results.json, up to seconds. Checkpoints and
    diagnostics are written by the workers, into the run's folder where they see it. A job whose
    worker is lost is done again by a new one.

    ray connects to the cluster that RAY_ADDRESS names, or to one that runs on this machine, or
    starts one here.

    Args:
        runner: of the experiment, which has checked it.
        device: of the models; a worker gets a GPU where it is one, else as many cores as the
            experiment has threads (1).
        workers: at most so many; as many as the cluster has room for by default.

    Raises:
        ConfigError: without the package, or a cluster without room for one worker.
    """

    def __init__(
        self, runner: Runner, *, device: str | None = None, workers: int | None = None
    ) -> None:
        self.runner, self.device = runner, device
        self.config = runner.experiment.resolved()  # without what a search will choose
        need_extra("ray")
        import ray

        self.ray: Any = ray
        if not self.ray.is_initialized():
            quiet = {"logging_level": logging.WARNING, "log_to_driver": False}
            self.ray.init(include_dashboard=False, **quiet)
        kind = runner.accelerator.device.type
        cores = runner.experiment.threads or 1
        self.needs = {"num_gpus": 1} if kind == "cuda" else {"num_cpus": cores}
        total = self.ray.cluster_resources()
        room = total.get("GPU", 0) if kind == "cuda" else total.get("CPU", 0) / cores
        if room < 1:
            raise ConfigError(
                expected=f"a cluster with room for a worker that needs {self.needs}",
                got=f"{ {name: total.get(name, 0) for name in ('CPU', 'GPU')} }",
                remedy="Lower threads in the experiment, choose another device, or add machines.",
            )
        self.count = min(int(room), workers or int(room))
        self.seconds: dict[Any, tuple[float, int]] = {}  # what features took, by worker
        self.free: list[Any] = []  # workers that wait for a job

    def tune(self, on_trial: Callable[[Trial, dict[str, Any]], None]) -> None:
        """Do the trials that are not done yet, and go on with what they choose."""
        search, runner = self.runner.search, self.runner
        runner.folder.open(runner.experiment.resolved())
        if search is not None and search.todo:
            # A trial that is drawn needs those before it: `runner.tune` does these, here.
            known = {(t.entry.label, t.number): t for t in search.todo if t.candidate}

            def keep(key: tuple[str, int]) -> Callable[[Any], None]:
                def done(record: dict[str, Any]) -> None:
                    search.log.add(record)
                    on_trial(known[key], record)

                return done

            self._all([_Task(("trial", *key), keep(key)) for key in known], "trials")
        runner.tune(on_trial)

    def run(
        self,
        on_finish: Callable[[Job, dict[str, Any]], None],
        on_trial: Callable[[Trial, dict[str, Any]], None] = lambda trial, record: None,
    ) -> dict[str, Any]:
        """Search, do the runs that are not done yet, and return the results; as `Runner.run`."""
        try:
            return self._run(on_finish, on_trial)
        finally:
            self.runner.folder.close()
            self.close()

    def close(self) -> None:
        """End the workers."""
        while self.free:
            self.ray.kill(self.free.pop())

    def _run(
        self,
        on_finish: Callable[[Job, dict[str, Any]], None],
        on_trial: Callable[[Trial, dict[str, Any]], None],
    ) -> dict[str, Any]:
        self.tune(on_trial)
        runner = self.runner
        clock = runner.clock()

        def keep(job: Job) -> Callable[[Any], None]:
            def done(answer: tuple[dict[str, Any], Any, tuple[float, int]]) -> None:
                record, worker, seconds = answer
                self.seconds[worker] = seconds
                runner.features_seconds = sum(s for s, _ in self.seconds.values())
                runner.features_samples = sum(n for _, n in self.seconds.values())
                runner.keep(job, record, clock)
                on_finish(job, record)

            return done

        trials = [] if runner.search is None else runner.search.log.trials
        tasks = [
            _Task(("run", job.entry.label, job.seed, trials), keep(job)) for job in runner.todo
        ]
        self._all(tasks, "runs")
        return runner.results()

    def _all(self, tasks: Sequence[_Task], label: str) -> None:
        """Do all tasks, as many at a time as there are workers, those first that come first."""
        ray, waiting = self.ray, deque(tasks)
        running: dict[Any, tuple[Any, _Task]] = {}
        while len(self.free) < min(self.count, len(tasks)):
            self.free.append(self._worker())
        progress = iter(self.runner.progress.track(range(len(tasks)), label))
        next(progress, None)
        try:
            while waiting or running:
                while waiting and self.free:
                    worker, task = self.free.pop(0), waiting.popleft()
                    method, *words = task.call
                    running[getattr(worker, method).remote(*words)] = worker, task
                (found,), _ = ray.wait(list(running), num_returns=1)
                worker, task = running.pop(found)
                try:
                    answer = ray.get(found)
                except ray.exceptions.RayTaskError as error:
                    ray.kill(worker)
                    raise error.cause from error  # what a runner here would have raised
                except lost_errors(ray) as error:
                    ray.kill(worker)  # one that only cannot be reached would keep its place
                    task.lost += 1
                    if task.lost == ATTEMPTS:
                        raise StateError(
                            expected=f"a worker that ends {task.call[:3]}",
                            got=f"{ATTEMPTS} that were lost on it ({str(error).splitlines()[0]})",
                            remedy="Look at the cluster: too little memory ends workers. What is "
                            "finished is kept; go on with --resume.",
                        ) from error
                    waiting.appendleft(task)
                    worker = self._worker()
                else:
                    task.done(answer)
                    next(progress, None)
                self.free.append(worker)
        finally:
            self.runner.progress.close()
            for worker, _ in running.values():  # after an error here
                ray.kill(worker)

    def _worker(self) -> Any:
        """Start a worker, which makes a runner of its own of the same experiment."""
        made = self.ray.remote(max_restarts=0, **self.needs)(_Worker)
        path = str(self.runner.folder.path.resolve())
        return made.remote(self.config, path, self.device, os.getcwd())


class _Worker:
    """In a process of the cluster: a runner that is told what to do."""

    def __init__(self, config: dict[str, Any], folder: str, device: str | None, place: str) -> None:
        import tempfile

        import tomli_w

        from cpool.experiment.folder import RunFolder
        from cpool.experiment.reading import read_experiment

        if Path(place).is_dir():
            os.chdir(place)  # where paths in the experiment are from
        with tempfile.TemporaryDirectory() as made:
            file = Path(made) / "experiment.toml"
            file.write_bytes(tomli_w.dumps(config).encode())
            experiment = read_experiment(file)
        self.runner = Runner(experiment, RunFolder(folder), device=device, resume=True)
        self.adopted = False

    def trial(self, label: str, number: int) -> dict[str, Any]:
        """Do one trial of the search."""
        assert self.runner.search is not None
        (entry,) = [row for row in self.runner.search.rows if row.label == label]
        return self.runner.search.one(Trial(entry, entry.candidates[number - 1], number))

    def run(
        self, label: str, seed: int, trials: list[dict[str, Any]]
    ) -> tuple[dict[str, Any], int, tuple[float, int]]:
        """Do one run; return its record, who did it, and what features have taken so far."""
        runner = self.runner
        if runner.search is not None and not self.adopted:
            runner.search.log.trials = list(trials)
            runner.experiment = runner.experiment.with_chosen(runner.search.chosen())
            runner.jobs, self.adopted = jobs_of(runner.experiment), True
        (job,) = [j for j in runner.jobs if (j.entry.label, j.seed) == (label, seed)]
        record = runner.one(job)
        return record, os.getpid(), (runner.features_seconds, runner.features_samples)
