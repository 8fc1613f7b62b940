"""RidgeHead: ridge regression on (random) features, additive over tasks, in float64."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.errors import ConfigError, DataError
from cpool.heads import Head, check_finite

__all__ = ["RIDGES", "RidgeHead", "choose_ridge", "solve_dual", "solve_primal"]

RIDGES = tuple(10.0**power for power in range(-8, 9))


def solve_primal(
    gram: Float[Tensor, "M M"], cross: Float[Tensor, "M C"], ridge: float
) -> Float[Tensor, "M C"]:
    """Return `(G + λI)⁻¹ Q` by Cholesky, with more λ only if G + λI is not positive in float64."""
    jitter = ridge
    scale = float(gram.diagonal().mean().clamp_min(1e-30))
    while True:
        shifted = gram.clone()
        shifted.diagonal().add_(jitter)
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            return torch.cholesky_solve(cross, factor)
        jitter = max(jitter * 10, scale * 1e-14)
        if not jitter < 1e6 * scale + ridge:
            raise DataError(
                expected="features whose Gram matrix can be factored",
                got=f"a matrix of mean diagonal {scale:.3g} that cannot",
                remedy="Scale or normalise the features (normalize=True of the backbone).",
            )


def solve_dual(
    rows: Float[Tensor, "n M"], targets: Float[Tensor, "n C"], ridge: float
) -> Float[Tensor, "M C"]:
    """Return `Zᵀ (Z Zᵀ + λI)⁻¹ Y`, the same weights as the primal form, for n < M."""
    return rows.T @ solve_primal(rows @ rows.T, targets, ridge)


def choose_ridge(
    rows: Float[Tensor, "n M"], targets: Float[Tensor, "n C"], ridges: tuple[float, ...] = RIDGES
) -> tuple[float, Float[Tensor, " R"]]:
    """Choose λ on the last 20 % of the rows, fitted on the first 80 %.

    The measure is the mean squared error over all columns, the first smallest wins (McDonnell et
    al., *RanPAC*, NeurIPS 2023, and its code).

    Returns:
        The λ chosen, and the error for each candidate.
    """
    cut = int(0.8 * len(rows))
    if not 0 < cut < len(rows):
        return 1.0, torch.full((len(ridges),), math.nan, dtype=rows.dtype)
    fit, held = rows[:cut], rows[cut:]
    errors = []
    if cut < rows.shape[1]:
        # One eigen-decomposition of the small Gram matrix serves every λ.
        values, vectors = torch.linalg.eigh(fit @ fit.T)
        rotated, reach = vectors.T @ targets[:cut], (held @ fit.T) @ vectors
        for ridge in ridges:
            predicted = reach @ (rotated / (values.clamp_min(0) + ridge)[:, None])
            errors.append((predicted - targets[cut:]).square().mean())
    else:
        gram, cross = fit.T @ fit, fit.T @ targets[:cut]
        for ridge in ridges:
            predicted = held @ solve_primal(gram, cross, ridge)
            errors.append((predicted - targets[cut:]).square().mean())
    error = torch.stack(errors)
    return ridges[int(error.argmin())], error


class RidgeHead(Head):
    """Ridge regression to one-hot labels, `(ZᵀZ + λI)⁻¹ Zᵀ Y`, one pass over each task.

    `Z = relu(f W)`, W ~ N(0, 1) of shape [F M] (RanPAC), or `Z = f` without a projection. While
    fewer rows than M have been seen the rows are kept and the dual form is solved; after that
    only `G = ZᵀZ` and `Q = ZᵀY` are, which add up over tasks. W is drawn from a seed and never
    stored.

    Args:
        feature_size: F.
        projection: M, or None to use the features themselves.
        ridge: λ, or "auto" to choose it on 20 % of each task's training data.
        seed: of W; drawn from torch's generator when None, and stored.
    """

    fits = True

    def __init__(
        self,
        feature_size: int,
        *,
        projection: int | None = 10_000,
        ridge: float | Literal["auto"] = "auto",
        seed: int | None = None,
    ) -> None:
        super().__init__(feature_size)
        wrong = ridge != "auto" if isinstance(ridge, str) else ridge <= 0
        if wrong:
            raise ConfigError(
                expected='a ridge above 0, or "auto"', got=repr(ridge), remedy="Change ridge."
            )
        if projection is not None and projection < 1:
            raise ConfigError(
                expected="a projection to at least 1 feature, or none",
                got=repr(projection),
                remedy="Change projection.",
            )
        self.projection, self.ridge = projection, ridge
        drawn = int(torch.randint(2**31 - 1, ())) if seed is None else seed
        self.width = projection or feature_size
        double = torch.float64
        self.register_buffer("seed", torch.tensor(drawn))
        self.register_buffer(
            "chosen", torch.tensor(1.0 if ridge == "auto" else ridge, dtype=double)
        )
        self.register_buffer("rows", torch.zeros(0, self.width, dtype=double))
        self.register_buffer("row_columns", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("gram", torch.zeros(0, self.width, dtype=double))
        self.register_buffer("cross", torch.zeros(self.width, 0, dtype=double))
        self.register_buffer("weight", torch.zeros(self.width, 0))
        self.register_buffer("matrix", self._draw(), persistent=False)

    def _draw(self) -> Float[Tensor, "F M"]:
        if self.projection is None:
            return torch.zeros(0, 0)
        generator = torch.Generator().manual_seed(int(self.get_buffer("seed")))
        return torch.randn(self.feature_size, self.projection, generator=generator)

    def grow(self, n: int) -> None:
        """Add `n` classes without samples."""
        for name in ("cross", "weight"):
            old = self.get_buffer(name)
            setattr(self, name, torch.cat([old, old.new_zeros(self.width, n)], dim=1))

    def expand(self, features: Float[Tensor, "n F"]) -> Float[Tensor, "n M"]:
        """Return Z, the random features."""
        if self.projection is None:
            return features.float()
        return torch.relu(features.float() @ self.get_buffer("matrix"))

    def fit(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]) -> None:
        """Add a task's features, choose λ if asked to, and solve."""
        if not len(features):
            raise DataError(
                expected="at least one training sample", got="none", remedy="Pass the task's data."
            )
        check_finite(features)
        columns, n = self.columns(labels), len(self.classes)
        rows = self.expand(features).to(self.get_buffer("rows").dtype)
        check_finite(rows)  # large features may overflow in the projection
        targets = torch.nn.functional.one_hot(columns, n).to(rows)
        if self.ridge == "auto":
            ridge, _ = choose_ridge(rows, targets)
            self.get_buffer("chosen").fill_(ridge)
        self._add(rows, columns, targets)
        self._solve()

    def _add(
        self, rows: Float[Tensor, "n M"], columns: Int[Tensor, " n"], targets: Float[Tensor, "n C"]
    ) -> None:
        gram = self.get_buffer("gram")
        kept, kept_columns = self.get_buffer("rows"), self.get_buffer("row_columns")
        self.get_buffer("cross").add_(rows.T @ targets)
        if len(gram):
            gram.addmm_(rows.T, rows)
        elif len(kept) + len(rows) < self.width:
            self.rows = torch.cat([kept, rows])
            self.row_columns = torch.cat([kept_columns, columns])
        else:
            joined = torch.cat([kept, rows])
            self.gram = joined.T @ joined
            self.rows, self.row_columns = kept[:0].clone(), kept_columns[:0].clone()

    def _solve(self) -> None:
        ridge, rows = float(self.get_buffer("chosen")), self.get_buffer("rows")
        if len(rows):
            columns = self.get_buffer("row_columns")
            targets = torch.nn.functional.one_hot(columns, len(self.classes)).to(rows)
            weight = solve_dual(rows, targets, ridge)
        else:
            weight = solve_primal(self.get_buffer("gram"), self.get_buffer("cross"), ridge)
        self.weight = weight.float()

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return `Z W`; −inf for a class without samples."""
        logits = self.expand(features) @ self.get_buffer("weight")
        absent = ~self.get_buffer("cross").any(dim=0)
        return logits.masked_fill(absent, -math.inf)

    def layout(self) -> dict[str, Any]:
        """Return the classes, and how many rows are kept."""
        rows, gram = len(self.get_buffer("rows")), len(self.get_buffer("gram"))
        return {**super().layout(), "rows": rows, "gram": gram}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the statistics of `layout`."""
        super().restore(layout)
        rows, columns = self.get_buffer("rows"), self.get_buffer("row_columns")
        self.rows = rows.new_zeros(layout["rows"], self.width)
        self.row_columns = columns.new_zeros(layout["rows"])
        self.gram = self.get_buffer("gram").new_zeros(layout["gram"], self.width)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        # W is not stored: it is drawn again from the seed that was.
        self.matrix = self._draw().to(self.get_buffer("matrix").device)
