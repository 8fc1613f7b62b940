"""What a window says of drift, and how large that gets without any."""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float64
from torch import Tensor

__all__ = ["distances", "fit_gaussian", "thresholds", "window_statistics"]

_PATHS, _WINDOWS = 4000, 100


def fit_gaussian(
    rows: Float64[Tensor, "n Q"],
) -> tuple[Float64[Tensor, " Q"], Float64[Tensor, "Q Q"]]:
    """Return mean and inverse covariance, the covariance shrunk to a multiple of the identity."""
    from sklearn.covariance import ledoit_wolf

    mean = rows.mean(dim=0)
    covariance = torch.from_numpy(ledoit_wolf((rows - mean).cpu().numpy(), assume_centered=True)[0])
    covariance = covariance.to(rows)
    # Directions without any variance would make it singular where all rows are alike.
    floor = 1e-9 * float(covariance.diagonal().mean()) + 1e-12
    covariance.diagonal().add_(floor)
    return mean, torch.linalg.inv(covariance)


def distances(
    rows: Float64[Tensor, "n Q"], mean: Float64[Tensor, " Q"], precision: Float64[Tensor, "Q Q"]
) -> Float64[Tensor, " n"]:
    """Return the squared Mahalanobis distance of each row to the mean."""
    gaps = rows - mean
    return ((gaps @ precision) * gaps).sum(dim=1)


def window_statistics(
    members: Float64[Tensor, "n m"],
    rows: Float64[Tensor, "m Q"],
    mean: Float64[Tensor, " Q"],
    precision: Float64[Tensor, "Q Q"],
) -> Float64[Tensor, "n 3"]:
    """Return `(t, d, -d)` of n windows, as in `DriftDetector`.

    Args:
        members: 1 where a window holds a row, else 0; as many ones in each window.
        rows: the rows.
        mean: μ.
        precision: the inverse of Σ.
    """
    window = members.sum(dim=1)
    t = window * distances((members @ rows) / window[:, None], mean, precision)
    d = (members @ distances(rows, mean, precision)) / window
    return torch.stack([t, d, -d], dim=1)


def thresholds(
    z: npt.NDArray[np.float64], share: float, rate: float, slack: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return the three thresholds, by simulating sums over drawn windows.

    Args:
        z: standardised statistics of windows without drift [n 3].
        share: rows of a window by rows of the calibration; the variance of the mean of `z`.
        rate: false alarms per window, of the three sums together.
        slack: k.
        rng: draws the paths.
    """
    sums = np.zeros((_PATHS, 3))
    most = np.zeros((_PATHS, 3))
    error = rng.normal(0.0, share**0.5, (_PATHS, 3))
    for _ in range(_WINDOWS):
        sums = np.maximum(0.0, sums + z[rng.integers(0, len(z), _PATHS)] + error - slack)
        most = np.maximum(most, sums)
    within = 1.0 - (1.0 - rate / 3) ** _WINDOWS
    limits: npt.NDArray[np.float64] = np.quantile(most, 1.0 - within, axis=0)
    return limits
