"""Run every experiment, several processes side by side, and make the page of benchmarks.

    python -m benchmarks.vit_s && python -m benchmarks.smollm2   two models, once
    python -m benchmarks.run_all --jobs 4                        `make benchmarks` does all three
    python -m benchmarks.run_all --jobs 4 banking77 digits       some of them, by name

The search of an experiment is done once, in a process of its own; then each seed gets a process
that starts from its trials. What was finished is not done again, so the command can be stopped and
given again. Logs and checkpoints lie in runs/benchmarks; results that are complete are joined into
benchmarks/results. Until then what is finished of an experiment lies in its folder there, under
parts: with that, another machine goes on. Where methods were added to an experiment without a
search since its results were committed, those methods alone are run. An experiment that fails does
not stop the others; its error is said at the end.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import merge_seeds, parts, prompt_ridge_page, tables
from benchmarks.models import check_made
from cpool.cli.guard import terminable
from cpool.errors import CpoolError
from cpool.experiment.config import Experiment
from cpool.experiment.reading import read_experiment

ROOT = Path(__file__).resolve().parent.parent
HEARTBEAT = 60.0


@dataclass
class Job:
    """One process: the search of an experiment, or one of its seeds."""

    plan: "Plan"
    folder: Path
    words: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    code: int | None = None

    @property
    def name(self) -> str:
        """What progress calls it."""
        return f"{self.plan.name} {self.folder.name}"

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder.with_suffix(".log")

    def start(self) -> None:
        """Start the process, with one thread."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cpool", "run", str(self.plan.file), "--resume"]
        command += ["--out", str(self.folder), *self.words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def last_line(self, start: str = "") -> str:
        """Return the last line of the log that begins with `start`."""
        lines = self.log.read_text("utf-8", "replace").splitlines() if self.log.is_file() else []
        return next((x.strip() for x in reversed(lines) if x.strip() and x.startswith(start)), "")


@dataclass
class Plan:
    """One experiment: its processes, and what became of it."""

    file: Path
    experiment: Experiment
    work: Path
    search: Job | None = None
    seeds: list[Job] = field(default_factory=list)
    error: str | None = None

    def __post_init__(self) -> None:
        """Make the jobs."""
        shared: list[str] = [] if self.experiment.threads else ["--set", "threads=1"]
        own = self.work / self.name
        first = str(self.experiment.seeds[0])
        if self.experiment.search is not None:
            words = [*shared, "--search-only", "--seeds", first]
            self.search = Job(self, own / "search", words)
            shared = [*shared, "--search-from", str(own / "search")]
        self.seeds = [
            Job(self, own / f"seed{seed}", [*shared, "--seeds", str(seed)])
            for seed in self.experiment.seeds
        ]

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.file.stem

    @property
    def jobs(self) -> list[Job]:
        """All of them, the search first."""
        return [*([self.search] if self.search else []), *self.seeds]

    def ready(self) -> list[Job]:
        """Return the jobs that can start now."""
        waiting = [job for job in self.jobs if job.process is None]
        if self.error is not None:
            return []
        if self.search is not None and self.search.code is None:
            return [job for job in waiting if job is self.search]
        return waiting


def work_through(plans: list[Plan], jobs: int, results: Path) -> None:
    """Run all jobs, at most `jobs` at a time, in order; join an experiment when it is whole."""
    total, begun, said = sum(len(plan.jobs) for plan in plans), time.monotonic(), time.monotonic()
    running: list[Job] = []
    for job in (job for plan in plans for job in plan.jobs):
        parts.restore(job.folder, results / job.plan.name)
    for plan in plans:
        if parts.reopen([j.folder for j in plan.seeds], plan.experiment, results / plan.name):
            print(f"{plan.name}: only methods that its results do not have", flush=True)
    try:
        while True:
            for job in [job for plan in plans for job in plan.ready()][: jobs - len(running)]:
                job.start()
                running.append(job)
            if not running:
                return
            time.sleep(0.2)
            for job in [job for job in running if job.process and job.process.poll() is not None]:
                running.remove(job)
                _ended(job, results)
                done = sum(job.code is not None for plan in plans for job in plan.jobs)
                open_ = sum(len(plan.jobs) for plan in plans if plan.error is None) - done
                left = (time.monotonic() - begun) / done * max(0, open_)
                state = "done" if job.code == 0 else f"FAILED with status {job.code}"
                took = _clock(time.monotonic() - job.started)
                print(
                    f"[{done}/{total}] {job.name}: {state} in {took}; about {_clock(left)} left",
                    flush=True,
                )
            if time.monotonic() - said > HEARTBEAT:
                said = time.monotonic()
                for job in running:
                    print(f"    {job.name}: {job.last_line()[:100]}", flush=True)
    finally:
        for job in running:
            assert job.process is not None
            job.process.terminate()
        for job in running:
            assert job.process is not None
            job.process.wait()
            parts.keep(job.folder, results / job.plan.name)  # its finished rows


def _ended(job: Job, results: Path) -> None:
    assert job.process is not None
    job.code, plan = job.process.returncode, job.plan
    if job.code != 0:
        plan.error = f"{job.last_line('cpool: ') or job.last_line()} ({job.log})"
        return
    parts.keep(job.folder, results / plan.name)
    if plan.error is None and all(other.code == 0 for other in plan.jobs):
        search = plan.search.folder if plan.search else None
        try:
            merge_seeds.write([j.folder for j in plan.seeds], results / plan.name, search)
            parts.drop(results / plan.name)
        except (SystemExit, CpoolError) as error:
            plan.error = f"cannot be joined: {error}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def make_plans(folder: Path, names: list[str], work: Path) -> tuple[list[Plan], dict[str, str]]:
    """Return the plans of the files that can be run, and the errors of the others by name."""
    plans, faults = [], {}
    files = {file.stem: file for file in sorted(folder.glob("*.toml"))}
    for name in names or files:
        if name not in files:
            faults[name] = f"no {name}.toml in {folder}"
            continue
        try:
            experiment = read_experiment(files[name])
            check_made(experiment)
            plans.append(Plan(files[name], experiment, work))
        except CpoolError as error:
            faults[name] = str(error)
    return plans, faults


def main() -> None:
    """Read the arguments, run everything, make the page, and say what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="experiments; all by default")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side, a thread each")
    parser.add_argument("--experiments", type=Path, default=ROOT / "benchmarks" / "experiments")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--results", type=Path, default=tables.RESULTS)
    args = parser.parse_args()
    plans, faults = make_plans(args.experiments, args.names, args.work)
    try:
        with terminable():
            work_through(plans, max(1, args.jobs), args.results)
    except KeyboardInterrupt:
        sys.exit("Stopped; what is finished is kept. Give the same command to go on.")
    if args.results == tables.RESULTS:
        tables.write()
        prompt_ridge_page.write()  # has every experiment, too
    faults |= {plan.name: plan.error for plan in plans if plan.error is not None}
    for name, error in faults.items():
        print(f"{name}: {error}", file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
