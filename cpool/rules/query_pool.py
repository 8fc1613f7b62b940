"""QueryPool: a query inside the pass should weight the pool as the unprompted feature does."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.rule import Rule

__all__ = ["QueryPool"]


class QueryPool(Rule):
    """Loss: `λ Σ_layers mean_b ‖softmax_m(α_m(q_b)) − softmax_m(α_m(r_b))‖²`.

    q is the query inside the pass, r the reference: the feature of an unprompted pass of the
    frozen model, in training only. The query-pool regularisation of OS-Prompt++ (Kim et al.,
    *One-stage prompt-based continual learning*, ECCV 2024), with the attended cosines α of the
    components as similarities. Gradients reach keys and attention vectors through both.

    Args:
        weight: λ.
    """

    def __init__(self, weight: float = 1e-4) -> None:
        super().__init__()
        self.weight = weight

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], output: Any, task: int | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the term "query_pool"."""
        reference = model.query(batch)
        terms = []
        for branch in model.prompter:
            available = branch.pool.available(training=True)
            ours = output.selections[branch.name].weight.softmax(dim=1)
            wanted = branch.policy(reference, task, available).weight.softmax(dim=1)
            terms.append((ours - wanted).square().sum(dim=1).mean())
        return {"query_pool": self.weight * torch.stack(terms).sum()}
