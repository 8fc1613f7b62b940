"""Ridge regression in float64: the solution in both forms, and the choice of λ."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.errors import DataError

__all__ = [
    "RELATIVE_RIDGES",
    "RIDGES",
    "choose_ridge",
    "factor",
    "leave_one_out",
    "solve_dual",
    "solve_primal",
]

RIDGES = tuple(10.0**power for power in range(-8, 9))
# As a share of the mean of the diagonal of G, about half a decade apart.
RELATIVE_RIDGES = tuple(round(10.0 ** (power / 2), 8) for power in range(-12, 3))


def solve_primal(
    gram: Float[Tensor, "M M"], cross: Float[Tensor, "M C"], ridge: float
) -> Float[Tensor, "M C"]:
    """Return `(G + λI)⁻¹ Q` by Cholesky, with more λ only if G + λI is not positive in float64."""
    return torch.cholesky_solve(cross, factor(gram, ridge))


def factor(gram: Float[Tensor, "M M"], ridge: float) -> Float[Tensor, "M M"]:
    """Return L, lower, of `L Lᵀ = G + λI`, with more λ only if that is not positive in float64."""
    jitter = ridge
    scale = float(gram.diagonal().mean().clamp_min(1e-30))
    while True:
        shifted = gram.clone()
        shifted.diagonal().add_(jitter)
        lower: Tensor
        lower, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            return lower
        jitter = max(jitter * 10, scale * 1e-14)
        if not jitter < 1e6 * scale + ridge:
            raise DataError(
                expected="features whose Gram matrix can be factored",
                got=f"a matrix of mean diagonal {scale:.3g} that cannot",
                remedy="Scale or normalise the features (normalize=True of the backbone).",
            )


def solve_dual(
    rows: Float[Tensor, "n M"],
    targets: Float[Tensor, "n C"],
    ridge: float,
    products: Float[Tensor, "n n"] | None = None,
) -> Float[Tensor, "M C"]:
    """Return `Zᵀ (Z Zᵀ + λI)⁻¹ Y`, the same weights as the primal form, for n < M.

    Args:
        rows: Z.
        targets: Y.
        ridge: λ.
        products: Z Zᵀ where it is known.
    """
    products = rows @ rows.T if products is None else products
    return rows.T @ solve_primal(products, targets, ridge)


def choose_ridge(
    rows: Float[Tensor, "n M"],
    targets: Float[Tensor, "n C"],
    ridges: tuple[float, ...] = RIDGES,
    *,
    relative: bool = False,
) -> tuple[float, Float[Tensor, " R"]]:
    """Choose λ on the last 20 % of the rows, fitted on the first 80 %.

    The measure is the mean squared error over all columns, the first smallest wins (McDonnell et
    al., *RanPAC*, NeurIPS 2023, and its code).

    Args:
        rows: Z.
        targets: Y, one-hot.
        ridges: candidates.
        relative: whether they are shares of the mean of the diagonal of G.

    Returns:
        The λ chosen, and the error for each candidate.
    """
    cut = int(0.8 * len(rows))
    if not 0 < cut < len(rows):
        return ridges[len(ridges) // 2], torch.full((len(ridges),), math.nan, dtype=rows.dtype)
    fit, held = rows[:cut], rows[cut:]
    scale = float(fit.square().sum() / fit.shape[1]) if relative else 1.0
    errors = []
    if cut < rows.shape[1]:
        # One eigen-decomposition of the small Gram matrix serves every λ.
        values, vectors = torch.linalg.eigh(fit @ fit.T)
        rotated, reach = vectors.T @ targets[:cut], (held @ fit.T) @ vectors
        for ridge in ridges:
            predicted = reach @ (rotated / (values.clamp_min(0) + ridge * scale)[:, None])
            errors.append((predicted - targets[cut:]).square().mean())
    else:
        gram, cross = fit.T @ fit, fit.T @ targets[:cut]
        for ridge in ridges:
            predicted = held @ solve_primal(gram, cross, ridge * scale)
            errors.append((predicted - targets[cut:]).square().mean())
    error = torch.stack(errors)
    return ridges[int(error.argmin())], error


def leave_one_out(
    rows: Float[Tensor, "n M"],
    targets: Float[Tensor, "n C"],
    ridges: tuple[float, ...] = RELATIVE_RIDGES,
) -> tuple[float, Float[Tensor, "n C"]]:
    """Return what is left of each row's targets by a ridge fitted on the other rows.

    With `A = (Z Zᵀ + λI)⁻¹` the residuals are `(A Y)ᵢ / Aᵢᵢ`, without a fit for each row (Allen,
    *The relationship between variable selection and data augmentation*, Technometrics 1974). λ is
    the one of the smallest sum of squares.

    Args:
        rows: Z.
        targets: Y, one-hot.
        ridges: candidates, as shares of the mean of the diagonal of `ZᵀZ`.

    Returns:
        The λ chosen, as a share, and the residuals.

    >>> z, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [3.0]])
    >>> leave_one_out(z, y, (0.2,))  # λ = 1: from the second row alone w = 6/5, from the first 1/2
    (0.2, tensor([[-0.2000],
            [ 2.0000]]))
    """
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    rotated = vectors.T @ targets
    scale = float(rows.square().sum() / rows.shape[1])
    best: tuple[float, float, Tensor] | None = None
    for ridge in ridges:
        inverse = 1 / (values.clamp_min(0) + ridge * scale)
        diagonal = vectors.square() @ inverse
        residuals = (vectors @ (inverse[:, None] * rotated)) / diagonal[:, None]
        error = float(residuals.square().sum())
        if best is None or error < best[0]:
            best = error, ridge, residuals
    assert best is not None
    return best[1], best[2]
