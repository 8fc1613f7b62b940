"""Measure false alarms and delay of the drift detector on real query features.

The embedded backbone's queries of scikit-learn's digits: without any change, with the digits
turned by an angle, at once or over eight windows, and with several changes one after the other.
Chunks are windows of 32, so that delays are in windows. Under two minutes on one thread:

    python benchmarks/drift.py [--seeds 40] [--out benchmarks/results/drift.json]
"""

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cpool
from cpool._io import write_json
from cpool.drift import DriftDetector, judge
from cpool.streams import Stream, load_stream

WINDOW, REFERENCE, RATE = 32, 512, 1e-3
ANGLES, WIDTHS = (5, 10, 15, 20, 30, 45, 90), (0, 8)


class Queries:
    """Query features by sample, computed once a data set."""

    def __init__(self) -> None:
        backbone = cpool.load_backbone("embedded")
        self.learner = cpool.Learner(cpool.NCM().build(backbone), quiet=True)

    def chunks(self, stream: Stream) -> list[torch.Tensor]:
        """Return the queries of each experience, in an order that says nothing of the class."""
        rng = np.random.default_rng([stream.seed, 1])
        return [
            self.learner.queries(task.train.take(rng.permutation(len(task.train))))
            for task in stream
        ]


def detector(seed: int, settle: int = 0) -> DriftDetector:
    """Return the detector that all rows of the table use."""
    return DriftDetector(
        window=WINDOW, reference=REFERENCE, false_alarms=RATE, settle=settle, seed=seed
    )


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums over the seeds."""
    delays = [d for one in found for d in one["delays"] if d is not None]
    windows = sum(one["windows"] for one in found)
    false = sum(one["false_alarms"] for one in found)
    return {
        "streams": len(found),
        "windows": windows,
        "false_alarms": false,
        "false_alarms_per_1000": round(1000 * false / windows, 2),
        "changes": sum(len(one["delays"]) for one in found),
        "missed": sum(one["missed"] for one in found),
        "delay_mean": round(float(np.mean(delays)), 2) if delays else None,
        "delay_max": max(delays) if delays else None,
    }


def unchanged(queries: Queries, seeds: int) -> dict[str, Any]:
    """Judge streams of all digits in random order, which never change."""
    stream = load_stream("split_digits", tasks=1, validation=0)
    whole = torch.cat([queries.learner.queries(s) for s in (stream[0].train, stream[0].test)])
    found = []
    for seed in range(seeds):
        order = np.random.default_rng([seed, 2]).permutation(len(whole))
        found.append(judge(detector(seed), whole[order].split(WINDOW), []))
    return summary(found)


def changed(queries: Queries, seeds: int, width: int, **options: Any) -> dict[str, Any]:
    """Judge streams of domains that follow each other."""
    found = []
    for seed in range(seeds):
        stream = load_stream(
            "gradual_drift", seed=seed, validation=0, samples=WINDOW, transition=width, **options
        )
        one = detector(seed, settle=width * WINDOW)
        found.append(judge(one, queries.chunks(stream), stream.arrangement["boundaries"]))
    return summary(found)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/drift.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started, queries = time.process_time(), Queries()
    rows = {"no change": unchanged(queries, 2 * arguments.seeds)}
    for width in WIDTHS:
        how = "at once" if width == 0 else f"over {width} windows"
        for angle in ANGLES:
            turned = {"of": "rotated_digits", "options": {"angles": [0, angle]}}
            few = max(1, arguments.seeds // 2)
            rows[f"turned by {angle}, {how}"] = changed(queries, few, width, **turned)
        four = {"of": "rotated_inverted_digits", "tasks": 4}
        rows[f"four domains, {how}"] = changed(queries, max(1, arguments.seeds // 4), width, **four)
    for name, row in rows.items():
        print(name, row)
    write_json(
        arguments.out,
        {
            "window": WINDOW,
            "reference": REFERENCE,
            "false_alarms_per_1000_asked": 1000 * RATE,
            "backbone": "embedded",
            "rows": rows,
            "processor_seconds": round(time.process_time() - started, 1),
            "versions": {
                "cpool": cpool.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
    )


if __name__ == "__main__":
    main()
