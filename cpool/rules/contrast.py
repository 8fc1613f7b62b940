"""MeanContrast: features of a batch are pushed away from one another and from old class means."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cpool.gaussians import ClassGaussians
from cpool.rule import Rule

__all__ = ["MeanContrast", "contrast"]


class MeanContrast(Rule):
    """Loss: `λ · contrast([μ_c of earlier tasks; h_b of the batch])`, see `contrast`.

    The contrastive regularisation of HiDe-Prompt (Wang et al., NeurIPS 2023) as its code has it:
    a feature, or a mean, is to be more similar to itself than to all the others.

    Args:
        gaussians: where the means are kept, such as those of `GaussianAlignment`.
        weight: λ.
        temperature: τ.
    """

    def __init__(
        self, gaussians: ClassGaussians, *, weight: float = 0.1, temperature: float = 0.8
    ) -> None:
        super().__init__()
        self._seen = (gaussians,)  # a tuple, since they belong to another rule
        self.weight, self.temperature = weight, temperature

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], output: Any, task: int | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the term "contrast"."""
        features = output.features.float()
        rows = torch.cat([self._seen[0].mean.to(features), features])
        return {"contrast": self.weight * contrast(rows, self.temperature)}


def contrast(rows: Float[Tensor, "m F"], temperature: float) -> Float[Tensor, ""]:
    """Return the mean of `−log (exp(r_i·r_i / τ) / Σ_j exp(r_i·r_j / τ))` over all rows.

    >>> round(float(contrast(torch.eye(2), 1.0)), 4)  # log(1 + 1/e)
    0.3133
    """
    similar = rows @ rows.T / temperature
    return F.cross_entropy(similar, torch.arange(len(rows), device=rows.device))
