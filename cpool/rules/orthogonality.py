"""OrthogonalityNorm: the orthogonality loss as the paper of CODA-Prompt writes it."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.policies.soft_attention import SoftAttention
from cpool.rule import Rule

__all__ = ["OrthogonalityNorm"]


class OrthogonalityNorm(Rule):
    """Add `weight · Σ_branches (‖KKᵀ − I‖ + ‖AAᵀ − I‖ + ‖PPᵀ − I‖)`, Frobenius norms.

    Smith et al., *CODA-Prompt*, CVPR 2023, equation 8; rows of old tasks are among them, but do
    not train. The published code takes the mean of the squares instead
    (`cpool.policies.soft_attention.orthogonality`), M² times less than the squared norm.

    Args:
        weight: of the loss.
    """

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], output: Any, task: int | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the loss of the keys, attention vectors and prompts of all branches."""
        terms = []
        for branch in model.prompter:
            if not isinstance(branch.policy, SoftAttention):
                continue
            values = branch.pool.values().flatten(2).transpose(0, 1)
            for rows in (*(part() for part in branch.policy.learned()), *values):
                eye = torch.eye(len(rows), device=rows.device, dtype=rows.dtype)
                terms.append((rows @ rows.T - eye).norm())
        return {"orthogonality": self.weight * torch.stack(terms).sum()}
