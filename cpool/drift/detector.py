"""DriftDetector: does the stream still look as it did? From query features only, no labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from cpool.drift.statistics import fit_gaussian, thresholds, window_statistics
from cpool.errors import ConfigError, DataError

__all__ = ["DriftDetector"]

_DRAWN = 1000  # windows of the calibration


class DriftDetector(nn.Module):
    r"""Decides on a task-free stream when it is time to grow, from query features [n Q] alone.

    The first `reference` rows are the reference. A drawn half of them gives a Gaussian with mean
    $\mu$ and one covariance $\Sigma$, shrunk as Ledoit and Wolf propose. Of each window of $w$
    rows with mean $\bar q$ two numbers are taken, and standardised with their mean and deviation
    over windows drawn from the other half of the reference:

    $$t = w\,(\bar q - \mu)^\top \Sigma^{-1} (\bar q - \mu) \qquad
      d = \frac{1}{w} \sum_i (q_i - \mu)^\top \Sigma^{-1} (q_i - \mu)$$

    $t$ grows when the mean moves; $d$ also when only the spread changes, and it may grow or
    shrink. Each of $z = (t, d, -d)$ has a cumulative sum (Page, 1954)

    $$S \leftarrow \max(0, S + z - k)$$

    with slack $k$; an alarm is raised when one of them passes its threshold. After an alarm the
    detector takes the next rows as its new reference, after it has left out `settle` of them.

    **The false-alarm rate is per window.** Thresholds are such that, without drift, the chance of
    an alarm within the first 100 windows after a reference is about $1 - (1 - \alpha)^{100}$, over
    references: estimated from windows drawn without replacement from held-out rows, and with the
    error of estimating the mean of each number from so few rows drawn too.

    Args:
        window: w, rows a window.
        reference: rows of the reference, at least 8 windows.
        false_alarms: α, the rate of false alarms per window.
        slack: k, in standard deviations of a window; larger for faster recovery, smaller to see
            weaker drift.
        settle: rows to leave out after an alarm, so that a transition does not become reference.
        seed: draws the halves of the reference and the windows of the calibration.

    Attributes:
        windows: how many windows were tested, since the detector was made.
        alarms: how many alarms were raised.

    Raises:
        ConfigError: an option that does not fit.

    >>> rows = torch.randn(1200, 4, generator=torch.Generator().manual_seed(0))
    >>> detector = DriftDetector(window=20, reference=400)
    >>> detector.update(rows[:1000]), detector.update(rows[1000:] + 1.5)
    (False, True)

    References: E. S. Page, Continuous Inspection Schemes, Biometrika, 1954; O. Ledoit and M. Wolf,
    A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, 2004.
    """

    def __init__(
        self,
        *,
        window: int = 32,
        reference: int = 512,
        false_alarms: float = 1e-3,
        slack: float = 0.5,
        settle: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(window, reference, false_alarms, slack, settle)
        self.window, self.reference, self.settle = window, reference, settle
        self.false_alarms, self.slack, self.seed = false_alarms, slack, seed
        self.windows = self.alarms = self._left_out = 0
        self.rows: Float64[Tensor, "n Q"]
        self.mean: Float64[Tensor, " Q"]
        self.precision: Float64[Tensor, "Q Q"]
        self.scale: Float64[Tensor, "2 3"]
        self.threshold: Float64[Tensor, " 3"]
        self.sums: Float64[Tensor, " 3"]
        self._clear(0)

    @property
    def ready(self) -> bool:
        """Whether there is a reference, so that the next window can be tested."""
        return len(self.mean) > 0

    def update(self, query: Float[Tensor, "n Q"]) -> bool:
        """Take rows in order of arrival; return whether an alarm was raised among them.

        How the rows are divided among calls changes nothing but which call returns the alarm.

        Raises:
            DataError: rows of another width than before, or rows that are not finite.
        """
        rows = query.detach().to(self.rows.device, torch.float64)
        width = self.rows.shape[1]
        if width not in (0, rows.shape[1]) or not bool(rows.isfinite().all()):
            raise DataError(
                expected=f"finite rows of {width or 'some'} numbers",
                got=f"{list(rows.shape)}, {int((~rows.isfinite()).sum())} numbers not finite",
                remedy="Pass the queries of one backbone, and drop broken inputs.",
            )
        rows = torch.cat([self.rows.reshape(-1, rows.shape[1]), rows])
        before = self.alarms
        while len(rows) >= (need := self._need()):
            self._take(rows[:need])
            rows = rows[need:]
        self.rows = rows.clone()
        return self.alarms > before

    def reset(self, query: Float[Tensor, "n Q"] | None = None) -> None:
        """Forget the reference; with rows, take these as the new one, all of them.

        Raises:
            DataError: fewer rows than 8 windows, or rows that are not finite.
        """
        self._left_out = 0
        self._clear(0 if query is None else query.shape[1])
        if query is None:
            return
        if len(query) < 8 * self.window or not bool(query.isfinite().all()):
            raise DataError(
                expected=f"at least {8 * self.window} finite rows, 8 windows",
                got=f"{list(query.shape)}",
                remedy="Collect more queries, or use a smaller window.",
            )
        self._learn(query.detach().to(self.rows.device, torch.float64))

    def layout(self) -> dict[str, Any]:
        """Return what `restore` needs besides the state dictionary, as plain JSON values."""
        return {
            "width": int(self.rows.shape[1]),
            "rows": len(self.rows),
            "ready": self.ready,
            "windows": self.windows,
            "alarms": self.alarms,
            "left_out": self._left_out,
        }

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the tensors of a `layout`, ready for `load_state_dict`."""
        width = layout["width"]
        self._clear(width)
        self.rows = self.rows.new_zeros(layout["rows"], width)
        if layout["ready"]:
            self.mean = self.rows.new_zeros(width)
            self.precision = self.rows.new_zeros(width, width)
        self.windows, self.alarms = layout["windows"], layout["alarms"]
        self._left_out = layout["left_out"]

    def _clear(self, width: int) -> None:
        # Only the first call, of the constructor, finds no buffer to take the device from.
        device = self.rows.device if "rows" in self._buffers else torch.device("cpu")
        sizes = {
            "rows": (0, width),
            "mean": (0,),
            "precision": (0, 0),
            "scale": (2, 3),
            "threshold": (3,),
            "sums": (3,),
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64, device=device))

    def _need(self) -> int:
        """Return how many rows the next step takes."""
        if self._left_out:
            return self._left_out
        return self.window if self.ready else self.reference

    def _take(self, rows: Float64[Tensor, "n Q"]) -> None:
        if self._left_out:
            self._left_out = 0
            return
        if not self.ready:
            self._learn(rows)
            return
        self.windows += 1
        whole = rows.new_ones(1, len(rows))
        found = window_statistics(whole, rows, self.mean, self.precision)[0]
        z = (found - self.scale[0]) / self.scale[1]
        self.sums = (self.sums + z - self.slack).clamp_min(0)
        if bool((self.sums > self.threshold).any()):
            self.alarms += 1
            self._clear(rows.shape[1])
            self._left_out = self.settle

    def _learn(self, rows: Float64[Tensor, "n Q"]) -> None:
        rng = np.random.default_rng([self.seed, self.alarms + 1])
        order = torch.from_numpy(rng.permutation(len(rows))).to(rows.device)
        fit, held = rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]
        self.mean, self.precision = fit_gaussian(fit)
        members = np.zeros((_DRAWN, len(held)))
        for window in members:
            window[rng.permutation(len(held))[: self.window]] = 1
        drawn = torch.from_numpy(members).to(rows)
        found = window_statistics(drawn, held, self.mean, self.precision)
        self.scale = torch.stack([found.mean(dim=0), found.std(dim=0).clamp_min(1e-12)])
        z = ((found - self.scale[0]) / self.scale[1]).cpu().numpy()
        limits = thresholds(z, self.window / len(held), self.false_alarms, self.slack, rng)
        self.threshold = torch.from_numpy(limits).to(rows)
        self.sums = torch.zeros_like(self.threshold)


def _check(window: Any, reference: Any, rate: Any, slack: Any, settle: Any) -> None:
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (window, reference, settle))
    if not whole or window < 2 or reference < 8 * window or settle < 0:
        raise ConfigError(
            expected="window from 2, reference of at least 8 windows, settle from 0, in rows",
            got=f"window={window!r}, reference={reference!r}, settle={settle!r}",
            remedy="Use window=32, reference=512.",
        )
    if not 1e-5 <= rate < 0.5 or not 0.0 <= slack < float("inf"):
        raise ConfigError(
            expected="false_alarms in [1e-5, 0.5), per window, and slack from 0",
            got=f"false_alarms={rate!r}, slack={slack!r}",
            remedy="Use false_alarms=0.001, slack=0.5.",
        )
