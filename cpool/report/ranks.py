"""Methods over several streams: ranks, Friedman's test, and Nemenyi's critical difference."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from cpool.errors import MetricError
from cpool.report.significance import ALPHA

__all__ = ["Ranking", "rank_methods", "ranks_of"]


@dataclass(frozen=True)
class Ranking:
    """Methods that were measured on all of several streams, best mean rank first.

    Attributes:
        methods: labels [k].
        streams: names [N].
        mean: mean rank of each method [k], 1 is best.
        p: of Friedman's test that all methods are alike; None below 3 methods or 2 streams.
        critical: difference of mean ranks from which on two methods differ (Nemenyi, `ALPHA`).
        groups: first and last position in `methods` of each largest group of methods whose mean
            ranks lie within `critical`.
        left_out: methods that lack a stream.
    """

    methods: tuple[str, ...]
    streams: tuple[str, ...]
    mean: tuple[float, ...]
    p: float | None
    critical: float | None
    groups: tuple[tuple[int, int], ...]
    left_out: tuple[str, ...]


def ranks_of(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Return the rank of each method on one stream, 1 for the highest; equals share the mean.

    >>> ranks_of({"a": 0.9, "b": 0.8, "c": 0.9})
    {'a': 1.5, 'b': 3.0, 'c': 1.5}
    """
    ranks = stats.rankdata([-value for value in accuracies.values()])
    return {label: float(rank) for label, rank in zip(accuracies, ranks, strict=True)}


def rank_methods(streams: Mapping[str, Mapping[str, float]]) -> Ranking:
    """Rank the methods that every stream has.

    Friedman's statistic compares the mean ranks; two methods differ when their mean ranks do by
    `CD = q_α √(k (k + 1) / (6 N))` or more, q_α the studentized range over √2 (Nemenyi; Demšar,
    JMLR 2006, equations 3.2). It is a cautious test: with few streams CD is large.

    Args:
        streams: name of a stream → label of a method → average accuracy.

    Raises:
        MetricError: no stream, or no method that all streams have.
    """
    labels = list(dict.fromkeys(label for found in streams.values() for label in found))
    shared = [label for label in labels if all(label in found for found in streams.values())]
    if not shared:
        raise MetricError(
            expected="at least one method that was measured on all streams",
            got=f"none of {len(labels)} methods on {len(streams)} streams",
            remedy="Rank streams apart, or run a method on all of them.",
        )
    accuracies = np.array([[found[label] for label in shared] for found in streams.values()])
    ranks = stats.rankdata(-accuracies, axis=1)
    mean = ranks.mean(axis=0)
    order = np.argsort(mean, kind="stable")
    sorted_mean = mean[order]
    critical = _critical(len(shared), len(streams))
    return Ranking(
        methods=tuple(shared[k] for k in order),
        streams=tuple(streams),
        mean=tuple(float(value) for value in sorted_mean),
        p=_friedman(accuracies),
        critical=critical,
        groups=_groups(sorted_mean, critical),
        left_out=tuple(label for label in labels if label not in shared),
    )


def _friedman(accuracies: Float[np.ndarray, "N k"]) -> float | None:
    streams, methods = accuracies.shape
    if methods < 3 or streams < 2:
        return None
    if (accuracies == accuracies[:, :1]).all():
        return 1.0  # scipy divides by the spread of the ranks, which is 0
    return float(stats.friedmanchisquare(*accuracies.T).pvalue)


def _critical(methods: int, streams: int) -> float | None:
    if methods < 2 or streams < 2:
        return None
    quantile = stats.studentized_range.ppf(1 - ALPHA, methods, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(methods * (methods + 1) / (6 * streams)))


def _groups(mean: Float[np.ndarray, "k"], critical: float | None) -> tuple[tuple[int, int], ...]:
    """Return the largest groups of two or more that the test cannot part."""
    if critical is None:
        return ()
    groups: list[tuple[int, int]] = []
    for first in range(len(mean)):
        last = int(np.flatnonzero(mean - mean[first] < critical)[-1])
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return tuple(groups)
