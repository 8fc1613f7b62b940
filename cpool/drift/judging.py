"""How good a drift detector is, on a stream whose true boundaries are known."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cpool.drift.detector import DriftDetector
from cpool.errors import DataError

__all__ = ["judge"]


def judge(
    detector: DriftDetector,
    chunks: Iterable[Float[Tensor, "n Q"]],
    boundaries: Sequence[int | Sequence[int]],
) -> dict[str, Any]:
    """Feed chunks to a detector, and count its false alarms and what it missed.

    The first chunk with an alarm from the start of a change up to the start of the next one is
    the detection of this change; every other chunk with an alarm is a false alarm. A change that
    falls into the time when the detector still collects its reference counts as missed too.

    Args:
        detector: goes on from where it is.
        chunks: query features in order of arrival; with one window a chunk, delays are in windows.
        boundaries: the first chunk of each change, as a number or as `[start, end]`, in order;
            what `gradual_drift` and `online` write into `stream.arrangement["boundaries"]`.

    Returns:
        `false_alarms` and `missed`, numbers of chunks and of changes; `delay`, the mean number of
        chunks from the start of a change to its detection, 0 if in the very chunk, and None
        without a detection; `delays` of each change, None where missed; `alarms`, the chunks;
        `windows`, how many the detector tested; and `false_alarms_per_1000` of these.

    Raises:
        DataError: boundaries that are not in order.

    >>> import torch
    >>> rows = torch.randn(60, 20, 4, generator=torch.Generator().manual_seed(0))
    >>> rows[40:] += 1.5
    >>> found = judge(DriftDetector(window=20, reference=400), rows, [40])
    >>> found["false_alarms"], found["missed"], found["delay"], found["windows"]
    (0, 0, 0.0, 21)
    """
    starts = [b if isinstance(b, int) else int(b[0]) for b in boundaries]
    if starts != sorted(set(starts)) or any(start < 0 for start in starts):
        raise DataError(
            expected="boundaries in order, each the number of a chunk",
            got=repr(list(boundaries)),
            remedy="Give the first chunk of each change.",
        )
    before = detector.windows
    alarms = [index for index, chunk in enumerate(chunks) if detector.update(chunk)]
    windows = detector.windows - before
    delays: list[int | None] = []
    for start, end in itertools.zip_longest(starts, starts[1:]):
        mine = [a for a in alarms if a >= start and (end is None or a < end)]
        delays.append(mine[0] - start if mine else None)
    found = [delay for delay in delays if delay is not None]
    false = len(alarms) - len(found)
    return {
        "false_alarms": false,
        "missed": len(starts) - len(found),
        "delay": sum(found) / len(found) if found else None,
        "delays": delays,
        "alarms": alarms,
        "windows": windows,
        "false_alarms_per_1000": 1000 * false / windows if windows else None,
    }
