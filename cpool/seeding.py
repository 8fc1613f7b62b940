"""Seeds: repeatable work that leaves the caller's random numbers alone."""

import contextlib
import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int

__all__ = ["derive", "seeded", "split_rows"]


def derive(*parts: int | str) -> int:
    """Return a seed that depends on all parts, and on nothing else.

    >>> derive(0, "task", 1) == derive(0, "task", 1), derive(0, "task", 1) == derive(0, "task", 2)
    (True, False)
    """
    text = "|".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "little")


@contextlib.contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Seed torch inside the block, and put its generators back after it.

    >>> with seeded(0): a = torch.rand(1)
    >>> with seeded(0): b = torch.rand(1)
    >>> bool(a == b)
    True
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(*parts))
        yield


def split_rows(
    size: int, share: float, seed: int, task: int
) -> tuple[Int[np.ndarray, " f"], Int[np.ndarray, " h"]]:
    """Return which rows of a task to train on, and which a method keeps to judge the result on.

    Args:
        size: rows of the task.
        share: of them that is kept, at least one.
        seed: of the learner.
        task: its number.

    >>> fit, held = split_rows(10, 0.2, seed=0, task=1)
    >>> len(fit), len(held), sorted([*fit, *held]) == list(range(10))
    (8, 2, True)
    """
    order = np.random.default_rng(derive(seed, "held", task)).permutation(size)
    cut = size - max(1, round(share * size))
    return np.sort(order[: max(1, cut)]), np.sort(order[cut:])
