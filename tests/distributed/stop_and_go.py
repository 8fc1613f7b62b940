"""One of two processes: files, an interruption, and data that differ.

torchrun --nproc_per_node 2 -m tests.distributed.stop_and_go OUT
"""

import atexit
import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpool.errors import DataError
from cpool.learner import Learner
from cpool.methods import L2P, RanPAC
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import stream


class Stopped(Exception):
    """Stands for whatever ends a run."""


def learner(**changes: Any) -> Learner:
    backbone = tiny.backbone("vit")
    with seeded(0, "build"):
        model = L2P(slots_per_task=2, top_k=1, length=2).build(backbone)
    options = {"epochs": 1, "batch_size": 7, "device": "cpu", "quiet": True, **changes}
    return Learner(model, **options)


def stop_after_two(one: Learner) -> None:
    """Let the third task fail."""
    fit = one.fit_task

    def fit_two(task, name=None) -> None:
        if task.index == 2:
            raise Stopped
        fit(task, name)

    one.fit_task = fit_two


def threads_left() -> None:
    """Print the threads of the process, by their names; those of libraries are among them."""
    left = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    print(f"rank {os.environ['RANK']} ends with the threads {sorted(left)}", flush=True)


def main() -> None:
    if sys.platform == "linux":
        atexit.register(threads_left)  # the first to be registered is the last to be called
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    tasks = stream("vit")
    whole = learner()
    matrix = whole.run(tasks, out / "whole")
    first = learner()
    stop_after_two(first)
    with contextlib.suppress(Stopped):
        first.run(tasks, out / "stopped")
    again = learner()
    resumed = again.run(tasks, out / "stopped", resume=True)
    assert np.array_equal(matrix.values, resumed.values, equal_nan=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    other = learner()
    rank = other.accelerator.process_index
    x, y = tasks[0].train.x, tasks[0].train.y
    seeds, settings = learner(seed=rank), learner(epochs=1 + rank)
    torch.manual_seed(rank)
    drawn = Learner(RanPAC(projection=40).build(tiny.backbone("vit")), device="cpu", quiet=True)
    refused = {
        "data": lambda: other.fit_task((x[rank:], y[rank:])),
        "seeds": lambda: seeds.fit_task(tasks[0]),
        "settings": lambda: settings.fit_task(tasks[0]),
        "draws": lambda: drawn.fit_task(tasks[0]),
        "shards": lambda: whole.predict(x[rank::2]),
        "lengths": lambda: whole.explain(x[: 5 + rank]),
        "nothing": lambda: whole.predict(x[:rank]),
        "tests": lambda: whole.evaluate([replace(tasks[0], test=tasks[0].test.take([rank]))]),
        "queries": lambda: whole.queries(tasks[0].test.take([rank])),
    }
    for what, call in refused.items():
        try:
            call()
        except DataError as error:
            print(f"rank {rank}, {what}: {error}", flush=True)
    # One sample for two processes: one of them has nothing to run, and all get the answer.
    alone = whole.predict_proba(x[:1])
    assert np.allclose(alone, whole.predict_proba(x[:5])[:1], atol=1e-5)
    if rank == 0:
        np.savetxt(out / "matrix.txt", matrix.values)


if __name__ == "__main__":
    main()
