"""Devices by name, through accelerate, with messages that help."""

import atexit
from functools import cache
from typing import Any

import torch

from cpool.errors import ConfigError

__all__ = ["check_device", "make_accelerator"]


def check_device(name: str | torch.device) -> torch.device:
    """Return a device that exists on this machine.

    Raises:
        ConfigError: no such kind of device, or none of it here.

    >>> check_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            expected='a device of this machine, such as "cpu" or "cuda:0"',
            got=f"{str(name)!r} ({str(error).splitlines()[0][:80]})",
            remedy="Leave the device out to take the best one there is.",
        ) from error
    return device


def make_accelerator(device: str | torch.device | None = None, precision: str = "no") -> Any:
    """Return an `accelerate.Accelerator`.

    Args:
        device: a name; what accelerate finds by default.
        precision: "no" or "bf16" mixed precision.

    Raises:
        ConfigError: no such device or precision, or another one than before in this process.
    """
    from accelerate import Accelerator

    if precision not in ("no", "bf16"):
        # fp16 needs scaled losses and an optimiser that undoes it for parameters that grow.
        raise ConfigError(
            expected='precision "no" or "bf16"', got=repr(precision), remedy="Choose one of them."
        )
    chosen = None if device is None else check_device(device)
    if chosen is not None and chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
    # Unless told that it works on CPUs, accelerate takes each of a group of them for one alone.
    cpu = not torch.accelerator.is_available() if chosen is None else chosen.type == "cpu"
    try:
        made = Accelerator(cpu=cpu, mixed_precision=precision)
    except ValueError as error:
        # accelerate keeps one state a process, and refuses a second one that differs.
        raise ConfigError(
            expected="one device and one precision in a process",
            got=f"device={device!r}, precision={precision!r}: {error}",
            remedy="Use the same in all learners of the process, or pass accelerator=….",
        ) from error
    if made.num_processes > 1:
        _leave_at_exit()
    return made


@cache  # once a process
def _leave_at_exit() -> None:
    """Leave the group before Python ends.

    A thread of gloo that gives back the last reference to a tensor needs the interpreter. While
    that ends, Python stops such a thread, which aborts a process whose work is done ("terminate
    called without an active exception").
    """
    atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
