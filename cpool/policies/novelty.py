"""How far queries are from all that a policy knows, and the threshold that this suggests."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpool.errors import ConfigError, DataError
from cpool.policies.base import Policy

__all__ = ["novelty", "threshold_for"]


@torch.no_grad()
def novelty(
    policy: Policy, query: Float[Tensor, "B Q"], available: Bool[Tensor, " M"] | None = None
) -> Float[Tensor, " B"]:
    """Return how far each query is from all slots; larger is farther.

    Minus the largest cosine of TopK and Mixture; the smallest distance of NearestCentroid and
    GaussianRouter. Only its order means something, and only within one policy.

    Args:
        policy: one with keys or centroids.
        query: the queries.
        available: which slots count; all by default.

    Raises:
        PoolError: the policy has no keys.

    >>> from cpool.policies import TopK
    >>> policy = TopK(2).eval(); policy.grow(1)
    >>> _ = policy.keys.blocks[0].data.copy_(torch.tensor([[1.0, 0.0]]))
    >>> novelty(policy, torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
    tensor([-1., -0.])
    """
    return -policy.nearness(query, available)


@torch.no_grad()
def threshold_for(
    policy: Policy,
    query: Float[Tensor, "n Q"],
    rejected: float = 0.05,
    available: Bool[Tensor, " M"] | None = None,
) -> float:
    """Return the `threshold` below which at most a share `rejected` of these queries lies.

    The queries belong to the tasks and were held out of training: keys are nearer to the queries
    that made them than to any others.

    Args:
        policy: one with keys or centroids, after training.
        query: held-out queries that have a slot.
        rejected: the share of them that may be told to fit none, in [0, 1).
        available: which slots count; all by default.

    Raises:
        DataError: no queries.
        ConfigError: a share outside of [0, 1).
    """
    if not len(query):
        raise DataError(
            expected="held-out queries to calibrate on", got="none", remedy="Pass validation data."
        )
    if not 0 <= rejected < 1:
        raise ConfigError(
            expected="a share in [0, 1)", got=str(rejected), remedy="0.05 rejects one in twenty."
        )
    near = policy.nearness(query, available).sort().values
    return float(near[int(rejected * len(near))])
