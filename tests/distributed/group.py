"""Starting a group of processes on this machine, as a launcher does on many."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def launched(*command: str, count: int = 2, seconds: int = 280) -> str:
    """Run a module in `count` processes that speak gloo, and return what they printed."""
    done = launch(*command, count=count, seconds=seconds)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def launch(*command: str, count: int = 2, seconds: int = 280) -> subprocess.CompletedProcess[str]:
    """Run a module in `count` processes, whatever comes of it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}"]
    launcher += [f"--master_port={free_port()}", "-m", *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        launcher, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
    )
