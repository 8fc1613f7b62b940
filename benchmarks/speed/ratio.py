"""Compare the time of several pieces of work by ratio, in turns, so that noise hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping


def measure(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Run every work once a round, in turns, after one round that is not counted.

    Returns:
        The seconds of each round, by name.
    """
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(seconds: Mapping[str, list[float]], base: str) -> dict[str, float]:
    """Return the median over the rounds of each work's time divided by that of `base`."""
    return {
        name: statistics.median(a / b for a, b in zip(times, seconds[base], strict=True))
        for name, times in seconds.items()
    }
