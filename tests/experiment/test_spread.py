"""Spread: the same results from the workers of a real ray cluster, also when one is lost."""

import contextlib
import json
import os
import threading
import time

import psutil
import pytest
import ray

from cpool.errors import ConfigError, DataError, StateError
from cpool.experiment import spread
from cpool.experiment.folder import RunFolder
from cpool.experiment.reading import read_experiment
from cpool.experiment.runner import Runner
from cpool.experiment.spread import Spread

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore::ResourceWarning")]

TEXT = """
seeds = [0, 1]
threads = 1
[backbone]
name = "embedded"
[stream]
name = "split_digits"
tasks = 2
train_per_class = 8
[search]
budget = 2
validation = 0.25
[[method]]
name = "ncm"
[[method]]
name = "l2p"
pool_size = 4
top_k = 1
length = 2
[method.train]
epochs = 1
[method.search]
"train.lr" = [0.001, 0.03]
"""
# What a measurement takes differs from one to the next; what it finds does not.
TIMES = ("seconds", "memory", "ratio")


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - what ray calls it
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    return path


def runner(file, out: str, **options) -> Runner:
    return Runner(read_experiment(file), RunFolder(file.parent / out), device="cpu", **options)


def without_search() -> str:
    kept, skip = [], False
    for line in TEXT.splitlines():
        skip = line.endswith("search]") or (skip and not line.startswith("[["))
        kept += [] if skip else [line]
    return "\n".join(kept)


def measured(value):
    """Leave out what depends on the clock."""
    if isinstance(value, dict):
        kept = [key for key in value if not any(word in key for word in TIMES)]
        return {key: measured(value[key]) for key in kept}
    return [measured(v) for v in value] if isinstance(value, list) else value


def test_workers_find_what_one_process_finds(cluster, file):
    alone = runner(file, "alone").run(lambda job, record: None)
    many, finished, tried = Spread(runner(file, "spread"), device="cpu"), [], []
    assert many.count == 2
    results = many.run(
        lambda job, record: finished.append((job.entry.label, job.seed)),
        lambda trial, record: tried.append((trial.entry.label, trial.number)),
    )
    assert measured(results) == measured(alone)
    assert {*finished} == {(m, s) for m in ("ncm", "l2p") for s in (0, 1)} and len(finished) == 4
    assert {*tried} == {("l2p", 1), ("l2p", 2)} and len(tried) == 2
    one, other = (file.parent / name for name in ("alone", "spread"))
    for name in ("config.toml", "results.json", "search.json", "environment.json"):
        assert (other / name).is_file()
    assert (other / "config.toml").read_text() == (one / "config.toml").read_text()
    files = [
        sorted(str(p.relative_to(out)) for p in (out / "checkpoints").rglob("*.safetensors"))
        for out in (one, other)
    ]
    assert files[0] == files[1], "names end in a piece of what is in the files"
    again = Spread(runner(file, "spread", resume=True), device="cpu")
    assert measured(again.run(lambda job, record: pytest.fail("done"))) == measured(alone)


def test_a_lost_workers_job_is_done_again(cluster, file):
    """A worker is ended amid its first run."""
    ended = []

    def end_one() -> None:
        until = time.monotonic() + 120
        while not ended and time.monotonic() < until:
            for process in psutil.process_iter(["cmdline"]):
                with contextlib.suppress(psutil.Error):
                    if "ray::_Worker.run" in " ".join(process.info["cmdline"] or ()):
                        process.kill()
                        ended.append(process.pid)
                        return
            time.sleep(0.01)

    file.write_text(without_search())
    hunter = threading.Thread(target=end_one)
    hunter.start()
    results = Spread(runner(file, "lost"), device="cpu").run(lambda job, record: None)
    hunter.join()
    assert ended, "no worker was there to be ended"
    assert results["complete"]
    assert measured(results) == measured(runner(file, "alone").run(lambda job, record: None))
    assert json.loads((file.parent / "lost" / "results.json").read_text())["complete"]


def test_a_worker_that_is_always_lost_is_told(cluster, file, monkeypatch):
    class Dying:
        def __init__(self, *words):
            pass

        def run(self, *words):
            os._exit(1)

    monkeypatch.setattr(spread, "_Worker", Dying)
    monkeypatch.setattr(spread, "ATTEMPTS", 2)
    file.write_text(without_search())
    with pytest.raises(StateError, match=r"2 that were lost on it .*--resume"):
        Spread(runner(file, "dying"), device="cpu", workers=1).run(lambda job, record: None)


@pytest.mark.parametrize(
    "lost",
    [
        ray.exceptions.NodeDiedError("The node is gone."),
        ray.exceptions.ObjectLostError("0" * 56, None, ""),
        ray.exceptions.OutOfMemoryError("1 worker(s) were killed."),
        ray.exceptions.WorkerCrashedError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_loses_a_worker_is_tried_three_times(cluster, file, monkeypatch, lost):
    class Idle:
        def __init__(self, *words):
            pass

        def run(self, *words):
            pass

    times = []

    def lose(answer):
        times.append(answer)
        raise lost

    monkeypatch.setattr(spread, "_Worker", Idle)
    monkeypatch.setattr(ray, "get", lose)
    file.write_text(without_search())
    with pytest.raises(StateError, match=r"3 that were lost on it .*too little memory"):
        Spread(runner(file, "out"), device="cpu", workers=1).run(lambda job, record: None)
    assert len(times) == 3


def test_what_a_run_raises_is_raised_here(cluster, file, monkeypatch):
    class Failing:
        def __init__(self, *words):
            pass

        def run(self, *words):
            raise DataError(expected="a finite loss", got="nan", remedy="Lower lr.")

    monkeypatch.setattr(spread, "_Worker", Failing)
    file.write_text(without_search())
    with pytest.raises(DataError, match="a finite loss; got nan"):
        Spread(runner(file, "bad"), device="cpu", workers=1).run(lambda job, record: None)


def test_a_cluster_without_room_is_told(cluster, file):
    file.write_text(file.read_text().replace("threads = 1", "threads = 99"))
    with pytest.raises(ConfigError, match=r"a worker that needs \{'num_cpus': 99\}"):
        Spread(runner(file, "wide"), device="cpu")
