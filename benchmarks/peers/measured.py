"""What the scripts of all peers share: a job is read, time and memory are taken, a result written.

Only numpy and torch are imported, since a script may run in an environment without cpool.
"""

import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

SAME = 1e-4  # largest difference between features of one and the same model


def peak_memory() -> int | None:
    """Return the largest resident memory of this process in bytes; None where it is not told.

    Not `getrusage`: on Linux its peak also counts the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(found[0].split()[1]) * 1024 if found else None


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of some tensors, each storage once."""
    storages = {t.data_ptr(): t.numel() * t.element_size() for t in tensors}
    return sum(storages.values())


class Run:
    """One measurement of one peer.

    Args:
        job: what the process was told.
        out: where the result is written.

    Attributes:
        matrix: accuracies, a row after each task, as far as tasks were learned then.
        sizes: test samples of each task, known when the stream was read.
    """

    def __init__(self, job: dict[str, Any], out: Path) -> None:
        self.job, self.out = job, out
        self.folder = Path(job["folder"])
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_seconds: dict[str, float] = defaultdict(float)
        self.matrix: list[list[float]] = []
        self.sizes: list[int] = []
        self.libraries = peak_memory()
        torch.manual_seed(job["seed"])
        np.random.seed(job["seed"])

    @classmethod
    def of_command_line(cls) -> "Run":
        """Return the run that the two arguments name: the job's file, and that of the result.

        To be called after the imports of the peer, whose memory is taken here.
        """
        torch.set_num_threads(1)
        job, out = sys.argv[1:]
        return cls(json.loads(Path(job).read_text(encoding="utf-8")), Path(out))

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to those of that name: of the clock, and of the processor."""
        started, worked = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] += time.perf_counter() - started
        self.cpu_seconds[name] += time.process_time() - worked

    def check_features(self, features: torch.Tensor) -> float:
        """Return how far the peer's query features are from those of the model itself.

        Raises:
            SystemExit: so far that it is another model.
        """
        wanted = torch.from_numpy(np.load(self.folder / f"features-{self.job['seed']}.npy"))
        far = float((features.detach() - wanted).abs().max())
        if not far <= SAME:
            raise SystemExit(f"features differ by {far}: not the same weights, or other inputs")
        return far

    def write(self, *, model: Iterable[torch.Tensor], trained: int, **more: Any) -> None:
        """Write the result.

        Args:
            model: all parameters and buffers that are held, frozen ones too.
            trained: how many numbers were trained.
            **more: further entries, plain JSON values.
        """
        peak = peak_memory()
        for times in (self.seconds, self.cpu_seconds):
            times["whole"] = sum(times[name] for name in ("set_up", "train", "evaluate"))
        result = {
            "accuracy_matrix": self.matrix,
            "test_sizes": self.sizes,
            "seconds": dict(self.seconds),
            "cpu_seconds": dict(self.cpu_seconds),
            "memory": {"libraries": self.libraries, "peak": peak, "model": bytes_of(model)},
            "trained_parameters": trained,
            **more,
        }
        self.out.write_text(json.dumps(result), encoding="utf-8")


def images(run: Run) -> list[dict[str, np.ndarray]]:
    """Return the tasks: "x", "y", "x_test", "y_test"; images uint8 [n H W 3]."""
    with np.load(run.folder / f"stream-{run.job['seed']}.npz") as arrays:
        keys, count = ("x", "y", "x_test", "y_test"), run.job["tasks"]
        tasks = [{key: arrays[f"{key}{t}"] for key in keys} for t in range(count)]
    run.sizes = [len(task["y_test"]) for task in tasks]
    return tasks


def texts(run: Run) -> dict[str, Any]:
    """Return the tasks with their texts, labels and classes, and the names of all labels."""
    path = run.folder / f"stream-{run.job['seed']}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    run.sizes = [len(task["y_test"]) for task in found["tasks"]]
    return found


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return the versions of some distributions; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
