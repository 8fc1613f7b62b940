"""Progress with time left on a terminal; silence everywhere else."""

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

__all__ = ["Progress"]

T = TypeVar("T")


class Progress:
    """Bars for nested loops, on standard error.

    Args:
        quiet: never show anything. Without a terminal nothing is shown either.

    >>> list(Progress(quiet=True).track([1, 2], "counting"))
    [1, 2]
    """

    def __init__(self, quiet: bool = False) -> None:
        self.shown = not quiet and sys.stderr.isatty()
        self._bars: Any = None
        self._depth = 0

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Yield the items, with a bar that says how far and how long still."""
        if not self.shown:
            yield from items
            return
        if total is None and isinstance(items, Sized):
            total = len(items)
        bars = self._open()
        bar = bars.add_task(label, total=total)
        try:
            for item in items:
                yield item
                bars.advance(bar)
        finally:
            bars.remove_task(bar)
            self._close()

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        if self.shown and self._bars is not None:
            self._bars.console.print(text, highlight=False)

    def close(self) -> None:
        """Take all bars off the terminal, also those of loops that were interrupted."""
        if self._bars is not None:
            self._bars.stop()
            self._bars, self._depth = None, 0

    def _open(self) -> Any:
        if self._bars is None:
            from rich import progress
            from rich.console import Console
            from rich.text import Text

            class Left(progress.TimeRemainingColumn):
                """Time left by the mean pace since the bar opened.

                rich looks at the last 30 seconds only, in which a slow step never ends.
                """

                def render(self, task: progress.Task) -> Any:
                    if not task.completed or task.total is None or task.elapsed is None:
                        return super().render(task)
                    seconds = task.elapsed / task.completed * (task.total - task.completed)
                    minutes, seconds = divmod(round(seconds), 60)
                    return Text(
                        f"{minutes // 60}:{minutes % 60:02}:{seconds:02}", "progress.remaining"
                    )

            self._bars = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("left"),
                Left(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bars.start()
        self._depth += 1
        return self._bars

    def _close(self) -> None:
        self._depth -= 1
        if self._depth <= 0:
            self.close()
