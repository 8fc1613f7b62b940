"""One of several processes: learns rows of the common grid and writes what came of each.

torchrun --nproc_per_node 2 -m tests.distributed.worker OUT ROW …
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from cpool.learner import Learner
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import LANGUAGE, ROWS
from tests.common.tasks import stream

# A step follows the gradient itself: Adam would divide rounding by rounding where it is near 0.
OPTIONS = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1, "lr": 0.01}
# Seven samples a batch: shares are unequal, and the last batch of a task of twelve has five.
BATCH = 7


def kind_of(row: str) -> str:
    return "llama" if row in LANGUAGE else "vit"


def learned(row: str) -> tuple[Learner, np.ndarray]:
    """Return a learner of a row, and its accuracies."""
    backbone = tiny.backbone(kind_of(row))
    with seeded(0, "build"):
        model = ROWS[row]().build(backbone)
    learner = Learner(model, epochs=1, batch_size=BATCH, device="cpu", quiet=True, **OPTIONS)
    tasks = stream(kind_of(row))
    if model.method.joint:
        return learner, learner.run(tasks).values
    accuracies = np.full((len(tasks), len(tasks)), np.nan)
    for task in tasks:
        learner.fit_task(task)
        told = learner.model.method.needs_task or None
        some = tasks[: task.index + 1]
        accuracies[task.index, : task.index + 1] = learner.evaluate(some, told=told)
    return learner, accuracies


def state_of(learner: Learner, accuracies: np.ndarray) -> dict[str, torch.Tensor]:
    state = {name: t.contiguous().clone() for name, t in learner.model.state_dict().items()}
    return {**state, "accuracies": torch.from_numpy(accuracies)}


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    for row in sys.argv[2:]:
        learner, accuracies = learned(row)
        rank = learner.accelerator.process_index
        assert learner.accelerator.num_processes > 1
        save_file(state_of(learner, accuracies), out / f"{row}.{rank}.safetensors")
        print(row, flush=True)


if __name__ == "__main__":
    main()
