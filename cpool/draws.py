"""Draws: the random numbers of a task, apart from those of everybody else."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from cpool.seeding import seeded

__all__ = ["Draws"]


class Draws:
    """Random numbers that go on from call to call, whatever is drawn between the calls.

    Attributes:
        states: of torch's generators, that of the CPU first; empty before `start`.

    >>> draws = Draws()
    >>> draws.start(0, "task", 0)
    >>> with draws(): first = torch.rand(1)
    >>> between = torch.rand(1)
    >>> with draws(): second = torch.rand(1)
    >>> draws.start(0, "task", 0)
    >>> with draws(): both = torch.rand(1), torch.rand(1)
    >>> bool(both[0] == first), bool(both[1] == second)
    (True, True)
    """

    def __init__(self) -> None:
        self.states: list[Tensor] = []

    def start(self, *parts: int | str) -> None:
        """Begin anew, with a seed that depends on all parts."""
        with seeded(*parts):
            self.states = _now()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Draw from these numbers inside of the block."""
        others = _now()
        _put(self.states)
        try:
            yield
        finally:
            self.states = _now()
            _put(others)


def _now() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return states


def _put(states: list[Tensor]) -> None:
    # A checkpoint may come from a machine with another kind of device.
    if states:
        torch.set_rng_state(states[0])
    if len(states) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[1])
