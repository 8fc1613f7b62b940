"""The steps of one task: a new optimiser over what trains now, and the epochs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import DataLoader

from cpool.errors import DataError
from cpool.model import PromptedModel
from cpool.output import Output
from cpool.progress import Progress
from cpool.run_log import TermMeans
from cpool.settings import TrainSettings

__all__ = ["make_optimizer", "optimise", "train_step"]


def make_optimizer(model: PromptedModel, train: TrainSettings) -> Optimizer:
    """Return a new optimiser over what trains now; call it after every growth.

    Parameters made after an optimiser was built are unknown to it and would never train. The
    parts of a model may have rates of their own (`model.rates`).
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(model.rates.get(name.split(".")[0], 1.0), []).append(parameter)
    parameters = [
        {"params": group, "lr": train.lr * factor} for factor, group in sorted(groups.items())
    ]
    if train.optimizer == "sgd":
        return SGD(parameters, train.lr, momentum=train.momentum, weight_decay=train.weight_decay)
    if train.optimizer == "adafactor":
        from transformers import Adafactor  # torch's own always scales by the parameters

        adafactor: Any = Adafactor  # untyped
        made: Optimizer = adafactor(
            parameters,
            train.lr,
            weight_decay=train.weight_decay,
            scale_parameter=False,
            relative_step=False,
        )
        return made
    kind = AdamW if train.optimizer == "adamw" else Adam
    return kind(parameters, train.lr, weight_decay=train.weight_decay)


def optimise(
    model: PromptedModel,
    loader: DataLoader[Any],
    train: TrainSettings,
    accelerator: Any,
    task: int,
    progress: Progress,
    label: str,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> list[float]:
    """Train `model` on a task and return the mean loss of each epoch.

    Args:
        model: with the task begun.
        loader: batches of the task.
        train: how to train.
        accelerator: an `accelerate.Accelerator`.
        task: its number in the model.
        progress: bars.
        label: of the bar.
        report: called after each epoch with its number, from 1, and the means of the loss and of
            its terms.
    """
    model.train()
    optimizer = make_optimizer(model, train)
    steps = train.epochs * len(loader)
    schedule = CosineAnnealingLR(optimizer, steps) if train.schedule == "cosine" else None
    means = []
    for epoch in progress.track(range(train.epochs), label):
        total, count = 0.0, 0
        terms = None if report is None else TermMeans()
        seen = None if terms is None else terms.add
        for batch in progress.track(loader, f"epoch {epoch + 1}"):
            loss = train_step(model, batch, train, accelerator, task, optimizer, schedule, seen)
            total, count = total + float(loss), count + 1
        means.append(total / count)
        if report is not None and terms is not None:
            report(epoch + 1, terms.means())
    return means


def train_step(
    model: PromptedModel,
    batch: dict[str, Tensor],
    train: TrainSettings,
    accelerator: Any,
    task: int,
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    seen: Callable[[Output], None] | None = None,
) -> Tensor:
    """Do one step on a batch, and return its loss; `seen` gets the answer, with its terms.

    Raises:
        DataError: a loss that is not finite; nothing was changed.
    """
    with accelerator.autocast():
        output: Output = model(batch, task=task)
    loss = output.loss
    assert loss is not None  # the batches of a task have labels
    if not torch.isfinite(loss):
        raise DataError(
            expected="a finite loss",
            got=f"{float(loss.detach())}",
            remedy="Lower lr, clip more (clip_norm), or look for NaN in the inputs.",
        )
    if seen is not None:
        seen(output)
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    model.passes.processes.mean_gradients(trained)
    if train.clip_norm:
        accelerator.clip_grad_norm_(trained, train.clip_norm)
    optimizer.step()
    if schedule is not None:
        schedule.step()
    done: Tensor = loss.detach()
    return done
