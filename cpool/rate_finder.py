"""A learning rate for a method on some data, found by raising it until the loss rises."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from cpool.backbones import Backbone
from cpool.errors import ConfigError, DataError, StateError
from cpool.learner import Learner
from cpool.methods import Method
from cpool.optimise import make_optimizer, train_step
from cpool.seeding import seeded
from cpool.settings import TrainSettings, is_number, is_whole
from cpool.streams import Examples, Stream, Task

__all__ = ["RateCurve", "find_rate"]

SMOOTH = 0.9  # of the running mean of losses
FAR, FIRST = 4.0, 10  # it ends when the mean is so many times the lowest one, after some steps
BELOW = 10.0  # how far below the rate of the lowest loss the suggestion lies


@dataclass(frozen=True)
class RateCurve:
    """What a range test saw.

    Attributes:
        rates: [n], rising, as many as steps were done.
        losses: [n], of a batch each, before its step.
        smoothed: [n], their running mean, without the pull of its start.
        suggestion: a tenth of the rate at which `smoothed` is lowest, and `low` at least; the
            first ten steps (half, where it ended before twenty) do not count, whose mean is of few
            batches. Where the loss is lowest at the last step, `high` was too low to see it rise.
    """

    rates: Float[np.ndarray, " n"]
    losses: Float[np.ndarray, " n"]
    smoothed: Float[np.ndarray, " n"]
    suggestion: float


def find_rate(
    method: Method,
    backbone: Backbone,
    data: Stream | Task | Examples | tuple[object, object],
    *,
    train: TrainSettings | None = None,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 60,
    seed: int = 0,
    device: str | None = None,
    quiet: bool = True,
) -> RateCurve:
    """Train a new model for some steps, each at a larger rate than the last, and watch the loss.

    The learning rate range test (Smith, *Cyclical learning rates*, WACV 2017,
    https://arxiv.org/abs/1506.01186): step i of N has the rate `low · (high / low)^(i / (N − 1))`.
    It ends early where the smoothed loss reaches four times its lowest value, or is not finite.
    Which rate is best in the end also depends on how many steps and which schedule follow: a
    suggestion is where to begin a search. The model of the test is thrown away, no other touched.

    Args:
        method: with its hyper-parameters.
        backbone: the frozen model.
        data: what the first task would learn from; of a stream the first task.
        train: further settings of training; the method's own by default. Rate and schedule do not
            matter.
        low, high: first and last rate.
        steps: N, at least 20; the data is read as often as that takes.
        seed: of the model and of the order of the data.
        device: where to run; what accelerate finds by default.
        quiet: show no progress.

    Raises:
        ConfigError: rates or steps of no meaning.
        DataError: data of a wrong kind, or a loss that was not finite from the start.
        StateError: a method of which nothing trains by gradients.

    >>> import cpool
    >>> from cpool.rate_finder import find_rate
    >>> stream = cpool.load_stream("split_digits", tasks=5)
    >>> found = find_rate(cpool.LinearHead(), cpool.load_backbone("embedded"), stream, steps=20)
    >>> 1e-5 < found.suggestion < 1
    True
    """
    _check(low, high, steps)
    with seeded(seed, "build"):
        model = method.build(backbone)
    settings = (train or method.settings).but(lr=low, schedule="constant")
    learner = Learner(model, settings, seed=seed, device=device, quiet=quiet)
    if isinstance(data, Stream):
        model.name_classes(data.class_names)
    loader = learner.loader_of(data[0] if isinstance(data, Stream) else data)
    if next(model.parameters(), None) is None:
        raise StateError(
            expected="a method that trains by gradients",
            got=f"{method.name!r}, which has no rate",
            remedy="Fit it as it is.",
        )
    rates = low * (high / low) ** (np.arange(steps) / (steps - 1))
    losses, smoothed = _raised(learner, loader, rates, seed)
    skipped = min(FIRST, len(smoothed) // 2)
    lowest = skipped + int(smoothed[skipped:].argmin())
    suggestion = max(low, float(rates[lowest]) / BELOW)
    return RateCurve(rates[: len(losses)], losses, smoothed, suggestion)


def _raised(
    learner: Learner, loader: DataLoader[Any], rates: Float[np.ndarray, " N"], seed: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Take a step at each rate, until the loss explodes; return losses, and their running mean."""
    model, settings = learner.model.train(), learner.train
    optimizer = make_optimizer(model, settings)
    schedule = LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)] / rates[0])
    losses: list[float] = []
    smoothed: list[float] = []
    mean, batches = 0.0, _endless(loader)
    with seeded(seed, "task", 0):
        for step in learner.progress.track(range(len(rates)), "rates"):
            batch = next(batches)  # what is wrong with the data is no loss that diverged
            try:
                loss = train_step(
                    model, batch, settings, learner.accelerator, 0, optimizer, schedule
                )
            except DataError:
                if not losses:
                    raise
                break
            losses.append(float(loss))
            mean = SMOOTH * mean + (1 - SMOOTH) * losses[-1]
            smoothed.append(mean / (1 - SMOOTH ** (step + 1)))
            if step >= FIRST and smoothed[-1] > FAR * min(smoothed[FIRST:]):
                break
    return np.array(losses), np.array(smoothed)


def _endless(loader: DataLoader[Any]) -> Iterator[dict[str, Tensor]]:
    while True:
        yield from loader


def _check(low: float, high: float, steps: int) -> None:
    if not (is_number(low) and is_number(high) and 0 < low < high):
        raise ConfigError(
            expected="rates 0 < low < high", got=f"{low!r}, {high!r}", remedy="Use 1e-5 and 1."
        )
    if not is_whole(steps) or steps < 2 * FIRST:
        raise ConfigError(
            expected=f"at least {2 * FIRST} steps",
            got=repr(steps),
            remedy="Some 60 give a smooth curve.",
        )
