"""λ by leaving rows out: the one with which most rows are right in a fit without them."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.ridge.solve import factor

__all__ = ["FEW", "SAMPLE", "SHARES", "START", "best_dual", "best_primal"]

SAMPLE = 1000  # rows that are left out, at most
FEW = 2000  # rows for which all shares are tried: with more, that takes long
# Of the mean of the diagonal of G, half a decade apart.
SHARES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
START = 3e-3  # where as many rows are right

Trial = tuple[int, Tensor]  # how many rows are right, and what was solved


def best_dual(
    products: Float[Tensor, "n n"],
    targets: Float[Tensor, "n C"],
    places: Int[Tensor, " s"],
    scale: float,
    *,
    few: bool,
) -> tuple[float, Float[Tensor, "n C"]]:
    """Return the share λ/scale with which most left-out rows are right, and `α = A Y` under it.

    With `A = (Z Zᵀ + λI)⁻¹` the answer to a row that was left out is `yᵢ − (A Y)ᵢ / Aᵢᵢ`, without a
    fit for each (Allen, *The relationship between variable selection and data augmentation*,
    Technometrics 1974). Rows are counted and not errors summed, since the λ of the smallest squared
    error is larger than the one of the most right answers.

    Args:
        products: Z Zᵀ.
        targets: Y, one-hot.
        places: of the rows that are left out, one at a time.
        scale: of the shares.
        few: try all of them; otherwise go from 0.003 to the next while more rows are right.
    """
    units = products.new_zeros(len(products), len(places))
    units[places, torch.arange(len(places), device=places.device)] = 1

    def trial(share: float) -> Trial:
        lower = factor(products, share * scale)
        alpha = torch.cholesky_solve(targets, lower)
        inverse = torch.linalg.solve_triangular(lower, units, upper=False).square().sum(dim=0)
        answers = targets[places] - alpha[places] / inverse[:, None]
        return _right(answers, targets[places], targets.any(dim=0)), alpha

    return _best(trial) if few else _climb(trial)


def best_primal(
    gram: Float[Tensor, "M M"],
    cross: Float[Tensor, "M C"],
    rows: Float[Tensor, "s M"],
    targets: Float[Tensor, "s C"],
    scale: float,
    *,
    few: bool,
) -> tuple[float, Float[Tensor, "M C"]]:
    """Return the same share from G and Q, of which the rows are a part, and the weights under it.

    With `hᵢ = zᵢᵀ (G + λI)⁻¹ zᵢ` and ŷ the answers of the ridge that was fitted on all rows, the
    answer to a row that was left out is `yᵢ − (yᵢ − ŷᵢ) / (1 − hᵢ)`.

    Args:
        gram: G = ZᵀZ.
        cross: Q = ZᵀY.
        rows: those that are left out, one at a time.
        targets: theirs, one-hot.
        scale: of the shares.
        few: try all of them; otherwise go from 0.003 to the next while more rows are right.
    """

    def trial(share: float) -> Trial:
        lower = factor(gram, share * scale)
        weight = torch.cholesky_solve(cross, lower)
        reach = torch.linalg.solve_triangular(lower, rows.T, upper=False).square().sum(dim=0)
        answers = targets - (targets - rows @ weight) / (1 - reach).clamp_min(1e-12)[:, None]
        return _right(answers, targets, cross.any(dim=0)), weight

    return _best(trial) if few else _climb(trial)


def _right(answers: Tensor, targets: Tensor, known: Tensor) -> int:
    answers = answers.masked_fill(~known, -torch.inf)  # a class without rows is no answer
    return int((answers.argmax(dim=1) == targets.argmax(dim=1)).sum())


def _best(trial: Callable[[float], Trial]) -> tuple[float, Tensor]:
    """Return the share of the most right rows and what it solved; of equals the nearest START."""
    tried = {share: trial(share) for share in SHARES}
    best = max(SHARES, key=lambda share: (tried[share][0], -max(share / START, START / share)))
    return best, tried[best][1]


def _climb(trial: Callable[[float], Trial]) -> tuple[float, Tensor]:
    """Return the share, from START on, whose neighbours get no more rows right, and its solution.

    >>> right = {3e-4: 9, 1e-3: 5, 3e-3: 5, 1e-2: 7, 3e-2: 8, 1e-1: 8}
    >>> _climb(lambda share: (right[share], torch.tensor(share)))
    (0.03, tensor(0.0300))
    """
    place = SHARES.index(START)
    best = trial(START)
    for step in (1, -1):
        start = place
        while 0 <= place + step < len(SHARES):
            other = trial(SHARES[place + step])
            if other[0] <= best[0]:
                break
            place, best = place + step, other
        if place != start:
            break
    return SHARES[place], best[1]
