"""How commands end: errors of cpool in one message and status 2, interruptions in status 130."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import typer

from cpool.errors import CpoolError

__all__ = ["Terminated", "guarded", "terminable"]


class Terminated(KeyboardInterrupt):
    """SIGTERM; handled as Ctrl-C is."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Turn errors that cpool raises on purpose into one message on stderr and status 2.

    Other errors keep their traceback (status 1): they are faults of the program.
    """
    try:
        yield
    except CpoolError as error:
        typer.echo(f"cpool: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as stop:
        typer.echo("cpool: stopped.", err=True)
        raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None
    except BrokenPipeError:
        # The reader of a pipe has left (`cpool list metrics | head`): nobody is left to tell.
        sys.stdout = None
        raise typer.Exit(0) from None


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` inside the block, where the platform allows it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
