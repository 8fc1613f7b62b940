"""Where a run was made: versions and machine, without names of people or hosts."""

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from cpool._version import __version__

__all__ = ["describe_environment"]


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
