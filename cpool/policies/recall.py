"""How much of what the exact search finds a policy's own search finds."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpool.policies.search import exact
from cpool.policies.top_k import TopK

__all__ = ["recall_at"]


@torch.no_grad()
def recall_at(
    policy: TopK,
    query: Float[Tensor, "n Q"],
    k: int = 1,
    available: Bool[Tensor, " M"] | None = None,
) -> float:
    """Return the share of the `k` nearest keys of each query that the policy finds (recall@k).

    The policy searches as at test, by whatever its `search` says; 1 for an exact one.

    Args:
        policy: the policy.
        query: queries.
        k: how many keys each should find.
        available: which slots count; all by default.

    >>> policy = TopK(8); policy.grow(50)
    >>> recall_at(policy, torch.randn(9, 8), 5)
    1.0
    """
    allowed = policy.candidates(available, k)
    training = policy.training
    policy.eval()
    try:
        found = policy.nearest(query, k, allowed)
    finally:
        policy.train(training)
    right = exact(policy.keys, query, k, allowed)
    return float((found.unsqueeze(2) == right.unsqueeze(1)).any(dim=1).float().mean())
