"""Environments of the peers: one each, made by pip from the package index, nothing shared."""

import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.settings import ENVIRONMENTS
from cpool._io import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = ("psutil", "safetensors")
LONGEST = 1200  # seconds of an install


class Environment(NamedTuple):
    """An interpreter that a peer runs in.

    Attributes:
        python: its path.
        error: why there is none that can be used; None if there is.
    """

    python: Path
    error: str | None


def make(name: str | None, folder: Path) -> Environment:
    """Return an environment of `ENVIRONMENTS`; it is made once, and again when its packages change.

    A peer that does not install is no failure of the benchmark: the error is what is reported.

    Args:
        name: of the environment; None for the interpreter that runs this.
        folder: that holds the environments.
    """
    if name is None:
        return Environment(Path(sys.executable), None)
    packages = [*ENVIRONMENTS[name], *ALWAYS]
    place, made = folder / name, folder / f"{name}.json"
    python = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if made.is_file() and read_json(made)["packages"] == packages and python.is_file():
        return Environment(python, None)
    folder.mkdir(parents=True, exist_ok=True)
    venv.create(place, clear=True, with_pip=True, system_site_packages=False)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["-c", str(ROOT / "constraints.txt"), *packages]
    error = run_quietly(command, LONGEST)
    if error is None:
        write_json(made, {"packages": packages})
    return Environment(python, error)


def run_quietly(
    command: list[str], longest: float, variables: dict[str, str] | None = None
) -> str | None:
    """Run a command; return None, or the last line of what it said before it failed."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=variables,
            capture_output=True,
            text=True,
            timeout=longest,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {longest:g} s"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("WARNING", "[notice]"))]
    return without_paths(said[-1] if said else f"ended with status {done.returncode}")


def without_paths(line: str) -> str:
    """Return a line without the folders of absolute paths, which say nothing elsewhere.

    >>> without_paths("ImportError: no name in /somewhere/on/a/disk/file.py at 3")
    'ImportError: no name in file.py at 3'
    """
    words = [word.rsplit("/", 1)[-1] if word.startswith("/") else word for word in line.split(" ")]
    return " ".join(words)[:300]
