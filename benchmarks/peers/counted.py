"""How much faster a cache of queries can make L2P: tokens that pass through the model, counted."""

from collections.abc import Mapping
from typing import Any

__all__ = ["counted"]


def counted(job: Mapping[str, Any], patches: int) -> dict[str, float]:
    """Return how many times as many tokens pass without a cache of query features as with one.

    In both, a step takes the prompted pass forward and backward (through frozen layers twice the
    work of forward alone), and an evaluation takes it forward. Without a cache each of them takes
    the query's pass, too; with one a sample takes it once. Nothing else is counted.

    Args:
        job: of a comparison.
        patches: of an image.

    >>> job = {"tasks": 1, "epochs": 2, "train_per_class": 1, "test_per_class": 1}
    >>> counted({**job, "top_k": 1, "length": 1}, patches=1)["train"]  # (2·2 + 2·2·3) / (2 + 12)
    1.1428571428571428
    """
    query = patches + 1
    prompted = query + job["top_k"] * job["length"]
    tasks, epochs = job["tasks"], job["epochs"]
    train, test = job["train_per_class"], job["test_per_class"]
    rounds = tasks * (tasks + 1) / 2  # evaluations of a task
    without = {
        "train": train * tasks * epochs * (query + 2 * prompted),
        "evaluate": test * rounds * (query + prompted),
    }
    cached = {
        "train": train * tasks * (query + epochs * 2 * prompted),
        "evaluate": test * (tasks * query + rounds * prompted),
    }
    ratios = {name: without[name] / cached[name] for name in without}
    return {"whole": sum(without.values()) / sum(cached.values()), **ratios}
