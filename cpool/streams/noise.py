"""Wrong labels in a share of the training examples; the true ones are kept for analysis."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cpool.errors import ConfigError
from cpool.streams._checks import check_fraction, check_seed
from cpool.streams._opened import Request, open_stream
from cpool.streams._source import fingerprint
from cpool.streams._splits import Tasks, draw_per_class
from cpool.streams.base import Examples, Stream, Task

__all__ = ["label_noise"]


def label_noise(
    of: Any,
    *,
    tasks: Tasks | None = None,
    seed: int = 0,
    validation: float | int = 0.1,
    noise: float | int = 0.2,
    kind: Literal["symmetric", "asymmetric"] = "symmetric",
    noise_seed: int = 0,
    data: str | os.PathLike[str] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    options: dict[str, Any] | None = None,
) -> Stream:
    """Give a share of the training examples of each class and task a wrong label of their task.

    Validation and test labels stay true. `Stream.true_labels` holds the true labels of the
    changed examples, and `Stream.clean_labels` gives those of any examples. The wrong label is
    of the same task, since one of another task would betray classes that have not come yet.

    Args:
        of: a registered stream, an arrangement too, or what `blurry` takes.
        tasks: as in `class_incremental`, by default the stream's own.
        seed: of the stream below.
        validation: of the stream below.
        noise: share of the training labels to change, in [0, 1).
        kind: "symmetric" changes to any other class of the task alike, "asymmetric" always to
            the next class of the task.
        noise_seed: draws what is changed; apart from `seed`.
        data: as in `blurry`.
        train_per_class: as in `blurry`.
        test_per_class: as in `blurry`.
        subset_seed: as in `blurry`.
        options: further options of the stream below.

    Raises:
        ConfigError: an option that does not fit, or a task of one class.
        DataError: the data is missing or of a wrong kind.

    >>> stream = label_noise("split_digits", tasks=2, noise=0.4)
    >>> wrong = [int((t.train.y != stream.clean_labels(t.train)).sum()) for t in stream]
    >>> [round(n / len(t.train), 2) for n, t in zip(wrong, stream)]
    [0.4, 0.4]

    Reference: G. Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017.
    """
    request = Request(data, train_per_class, test_per_class, subset_seed, options)
    share = check_fraction(noise, "noise")
    noise_seed = check_seed(noise_seed, "noise_seed")
    if kind not in ("symmetric", "asymmetric"):
        got, remedy = repr(kind), "Choose one."
        raise ConfigError(expected='kind "symmetric" or "asymmetric"', got=got, remedy=remedy)
    stream = open_stream(of, request, seed=seed, validation=validation, tasks=tasks)
    made: list[Task] = []
    true: dict[int, int] = dict(stream.true_labels)
    for task in stream:
        y = _changed(task, share, kind, noise_seed)
        for row in np.flatnonzero(y != task.train.y).tolist():
            true.setdefault(int(task.train.ids[row]), int(task.train.y[row]))
        train = Examples(task.train.x, y, task.train.ids, task.train.source)
        made.append(replace(task, train=train))
    description = f"{kind} label noise {share:g} {noise_seed}"
    return stream.replaced(
        made,
        name=f"{stream.name}_label_noise",
        fingerprint=fingerprint(stream.fingerprint, description) if share else stream.fingerprint,
        true_labels=true,
        arrangement={
            "name": "label_noise",
            "noise": share,
            "kind": kind,
            "noise_seed": noise_seed,
            "of": stream.arrangement,
        },
    )


def _changed(task: Task, share: float, kind: str, seed: int) -> npt.NDArray[np.int64]:
    """Return the labels [n] of the task's training examples, some of them wrong."""
    y, classes = task.train.y.copy(), task.classes
    if not share:
        return y
    if len(classes) < 2:
        raise ConfigError(
            expected="at least two classes in every task, to confuse them",
            got=f"{len(classes)} in {task.name!r}",
            remedy="Make larger tasks.",
        )
    chosen = np.flatnonzero(draw_per_class(y, share, (seed, 8, task.index)))
    y[chosen] = _others(y[chosen], classes, kind, np.random.default_rng([seed, 8, task.index + 1]))
    return y


def _others(
    y: npt.NDArray[np.int64], classes: Sequence[int], kind: str, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    place = np.array([classes.index(label) for label in y.tolist()], dtype=np.int64)
    steps = rng.integers(1, len(classes), len(y)) if kind == "symmetric" else 1
    moved: npt.NDArray[np.int64] = np.array(classes, dtype=np.int64)[(place + steps) % len(classes)]
    return moved
