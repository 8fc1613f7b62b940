"""What the report draws of a pool: slots, usage, and keys and queries in one plane."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cpool.learner import Learner
from cpool.policies import NearestCentroid, TopK
from cpool.prompter import Branch, EmbeddingSite
from cpool.streams import Stream

__all__ = ["SAMPLE", "describe_pools"]

SAMPLE = 60


def describe_pools(learner: Learner, stream: Stream) -> dict[str, Any] | None:
    """Return the content of a diagnostics file; None for a method without prompts.

    Keys and at most `SAMPLE` test queries a task are L2-normalised, as the cosine sees them, and
    projected together onto their first two principal components. A centroid policy shows the mean
    of each slot's centroids. Keys of a policy that compares in another space are null.
    """
    if learner.model.prompter is None:
        return None
    branches: list[Branch] = list(learner.model.prompter)
    keys = {branch.name: _keys(branch) for branch in branches}
    queries = [_sample(learner, stream, task) for task in range(len(stream))]
    plane = _plane([*queries, *(k for k in keys.values() if k is not None)])
    points = iter(plane)
    drawn = [{"task": i, "xy": next(points)} for i in range(len(queries))]
    return {
        "branches": [
            {
                "name": branch.name,
                "site": _site(branch),
                "slots": [_slot(asdict(slot)) for slot in branch.pool.slots],
                "usage": learner.usage.get(branch.name, []),
                "keys": None if keys[branch.name] is None else next(points),
            }
            for branch in branches
        ],
        "queries": drawn,
    }


def _slot(slot: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("id", "name", "task", "enabled", "trained_steps", "parent")
    return {key: slot[key] for key in wanted}


def _site(branch: Branch) -> str:
    if isinstance(branch.site, EmbeddingSite):
        return "embedding"
    return f"prefix, layers {', '.join(map(str, branch.site.layers))}"


def _keys(branch: Branch) -> Float[np.ndarray, "M Q"] | None:
    policy = branch.policy
    if isinstance(policy, TopK):
        return _unit(policy.keys())
    if isinstance(policy, NearestCentroid):
        return _unit(policy.centroids.mean(dim=1))
    return None


def _sample(learner: Learner, stream: Stream, task: int) -> Float[np.ndarray, "n Q"]:
    test = stream[task].test
    # Evenly spread over the split, and the same ones for every method.
    chosen = np.unique(np.linspace(0, len(test) - 1, min(SAMPLE, len(test))).round().astype(int))
    return _unit(learner.queries(test.take(chosen)))


def _unit(rows: Tensor) -> Float[np.ndarray, "n Q"]:
    unit: Float[np.ndarray, "n Q"] = F.normalize(rows.detach().float(), dim=1).cpu().numpy()
    return unit


def _plane(groups: Sequence[Float[np.ndarray, "_ Q"]]) -> list[list[list[float]]]:
    """Project all groups together to two dimensions, rounded to four decimals."""
    from sklearn.decomposition import PCA

    rows = np.concatenate(groups).astype(np.float64)
    parts = min(2, *rows.shape)
    flat = PCA(parts, svd_solver="full", random_state=0).fit_transform(rows)
    flat = np.pad(flat, ((0, 0), (0, 2 - parts))).round(4) + 0.0  # no -0.0
    ends = np.cumsum([len(group) for group in groups])[:-1]
    return [part.tolist() for part in np.split(flat, ends)]
