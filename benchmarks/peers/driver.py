"""Run every peer in processes of its own, in turns, and collect what they measured."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.environment import ROOT, Environment, make, run_quietly
from benchmarks.peers.settings import Comparison, Peer
from cpool._io import read_json, write_json
from cpool.metrics import AccuracyMatrix

LONGEST = 1800  # seconds of a run
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_VERSIONS = (
    "import json, sys; from benchmarks.peers.measured import versions; "
    "print(json.dumps(versions(sys.argv[1:])))"
)


def compare(
    comparison: Comparison, folder: Path, seeds: Sequence[int], say: Callable[[str], object] = print
) -> dict[str, Any]:
    """Measure all peers of a comparison.

    Each round has a seed, and in each round the peers take turns, the first of one round last in
    the next, so that what else the machine does hits all alike. A peer that fails is recorded with
    its error and runs no more.

    Args:
        comparison: what is compared.
        folder: for environments, and what `write_inputs` wrote in the subfolder of its name.
        seeds: one a round.
        say: where progress goes.
    """
    work = folder / comparison.name
    places = {peer.name: make(peer.environment, folder) for peer in comparison.peers}
    peers: dict[str, dict[str, Any]] = {
        peer.name: {
            "error": places[peer.name].error,
            "versions": {},
            "changes": dict(peer.changes),
            "runs": [],
        }
        for peer in comparison.peers
    }
    for peer in comparison.peers:
        if places[peer.name].error is None:
            peers[peer.name]["versions"] = installed(peer, places[peer.name])
    for number, seed in enumerate(seeds):
        turns = comparison.peers if number % 2 == 0 else comparison.peers[::-1]
        for peer in turns:
            record = peers[peer.name]
            if record["error"] is None:
                job = {**comparison.job, **peer.changes, "folder": str(work), "seed": seed}
                result, record["error"] = measure(peer, places[peer.name], job, work)
                record["runs"] += [] if result is None else [{"seed": seed, **result}]
                say(f"{comparison.name}, seed {seed}, {peer.name}: {record['error'] or 'done'}")
    return {
        "title": comparison.title,
        "kind": comparison.kind,
        "base": comparison.base,
        "accuracy": comparison.accuracy,
        "job": comparison.job,
        "peers": peers,
    }


def measure(
    peer: Peer, place: Environment, job: dict[str, Any], work: Path
) -> tuple[dict[str, Any] | None, str | None]:
    """Run a peer once, with one thread; return what it measured, or why it did not."""
    task, out = work / "job.json", work / "result.json"
    write_json(task, job)
    out.unlink(missing_ok=True)
    single = {name: "1" for name in THREADS}
    command = [str(place.python), "-m", f"benchmarks.peers.{peer.script}", str(task), str(out)]
    error = run_quietly(command, LONGEST, {**os.environ, **single, "PYTHONPATH": str(ROOT)})
    if error is not None:
        return None, error
    result = read_json(out)
    matrix = AccuracyMatrix(len(result["accuracy_matrix"]))
    for t, row in enumerate(result["accuracy_matrix"]):
        for i, value in enumerate(row):
            matrix.update(t, i, value, result["test_sizes"][i])
    summary = matrix.summary()
    return {**result, **{k: summary[k] for k in ("average_accuracy", "forgetting")}}, None


def installed(peer: Peer, place: Environment) -> dict[str, str | None]:
    """Return the versions of a peer's packages."""
    command = [str(place.python), "-c", _VERSIONS, *peer.packages]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


def machine() -> dict[str, Any]:
    """Return what the times depend on, as far as it says nothing of whose machine it is."""
    return {
        "processor": platform.machine(),
        "system": platform.system(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "threads": 1,
    }
