"""Principal components of slots, as combinations of the slots themselves."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["components"]


def components(
    values: Float[Tensor, "n F"], room: int
) -> tuple[Float[Tensor, "r n"], Float[Tensor, "n F"]]:
    """Return the coefficients of the slots that replace `values`, and what these can restore.

    Row 0 is the mean; row j is the mean plus one standard deviation along component j, which is
    `1/n + u_ij / √n` of each row i for the singular value decomposition `V − mean = U S Wᵀ`.

    Args:
        values: the old slots, float64.
        room: how many new ones there may be; there are fewer if the values span less.
    """
    n = len(values)
    mean = values.mean(dim=0)
    left, scale, right = torch.linalg.svd(values - mean, full_matrices=False)
    rank = int((scale > 1e-9 * scale.max().clamp_min(1e-300)).sum())
    kept = min(room - 1, rank)
    left, right = left[:, :kept], right[:kept]
    # The sign of a singular vector is arbitrary: its largest entry is made positive.
    sign = left.gather(0, left.abs().argmax(dim=0, keepdim=True)).sign()
    mixing = torch.cat([left.new_full((1, n), 1 / n), 1 / n + (left * sign).T / n**0.5])
    return mixing, mean + (values - mean) @ right.T @ right
