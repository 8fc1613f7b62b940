"""What the tests of Trainers share: arguments of one, data of two tasks, and what must stay."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from cpool.backbones import Backbone
from cpool.interop.transformers import TaskCallback
from cpool.interop.transformers.model import CpoolModel
from tests import tiny

LABELS = ("cat", "dog", "bird", "fish")
TASKS = ((2, 0), (1, 3))  # not in the order of the numbers: column and class must not be mixed up


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    options = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(str(folder), **{**options, **changes})


def data(model: CpoolModel, kind: str, task: int) -> list[dict[str, Tensor]]:
    """Return 12 rows of the two classes of a task."""
    return model.rows(tiny.raw(kind, 12, seed=task), [*TASKS[task]] * 6)


def trainer(model: CpoolModel, kind: str, task: int, folder: Path, **changes: Any) -> Trainer:
    options = {key: changes.pop(key) for key in ("compute_metrics", "optimizers") if key in changes}
    rows = data(model, kind, task)
    return Trainer(
        model=model,
        args=arguments(folder, **changes),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[TaskCallback(TASKS[task])],
        **options,
    )


def stacked(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def weights(backbone: Backbone) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in backbone.state_dict().items()}


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
