"""Where a run was made: versions and machine, without names of people or hosts."""

import os
import platform
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from cpool._io import read_json, write_json
from cpool._version import __version__

__all__ = ["Clock", "describe_environment"]


def describe_environment(device: str) -> dict[str, Any]:
    """Return what environment.json holds when a run starts; `seconds` is filled in at its end.

    >>> describe_environment("cpu")["device"]
    'cpu'
    """
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpool": __version__,
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "numpy": _version("numpy"),
        "sklearn": _version("scikit-learn"),
        "accelerate": _version("accelerate"),
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": None,
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str | None:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class Clock:
    """Keeps environment.json: the seconds of all sittings together, and the first start.

    Args:
        path: the file; what it holds from an earlier sitting is added to.
        device: of the models.
        writes: whether this process keeps the file.
    """

    def __init__(self, path: Path, device: str, *, writes: bool = True) -> None:
        self.path, self.started, self.writes = path, time.perf_counter(), writes
        self.content = describe_environment(device)
        self.before = 0.0
        if path.is_file():
            then = read_json(path)
            self.content["started"] = then["started"]
            self.before = then["seconds"] or 0.0
        self.write()

    def write(self) -> None:
        """Write what has passed so far."""
        self.content["seconds"] = self.before + time.perf_counter() - self.started
        if self.writes:
            write_json(self.path, self.content)
