"""RidgeHead: ridge regression on (random) features, additive over tasks, in float64."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.errors import ConfigError, DataError
from cpool.heads import Head, check_finite
from cpool.ridge.exact import forget_task, merge_heads
from cpool.ridge.expansion import Kind, RandomFeatures
from cpool.ridge.kept import KeptTasks
from cpool.ridge.left_out import FEW, SAMPLE, START, best_dual, best_primal
from cpool.ridge.sample import RowSample, sampled
from cpool.ridge.solve import (
    RELATIVE_RIDGES,
    RIDGES,
    choose_ridge,
    leave_one_out,
    solve_dual,
    solve_primal,
)

__all__ = ["RidgeHead"]


class RidgeHead(Head):
    """Ridge regression to one-hot labels, `(ZᵀZ + λI)⁻¹ Zᵀ Y`, one pass over each task.

    Z are random features (`RandomFeatures`) or the features themselves. While fewer rows than M
    have been seen the rows are kept and the dual form is solved; after that only `G = ZᵀZ` and
    `Q = ZᵀY` are, which add up over tasks: so heads fitted apart merge exactly, and a task whose
    share is kept can be taken out again.

    Args:
        feature_size: F.
        projection: M, or None to use the features themselves.
        ridge: λ; "auto" to choose it on 20 % of each task's training data; or "left_out", the
            share of the mean of the diagonal of G with which most rows are right that were left
            out of the fit, over a thousand of all rows so far.
        seed: of the random features; drawn from torch's generator when None, and stored.
        kind: of the random features.
        gamma: scale of their cosines.
        relative: whether a number, or what "auto" chooses, is a share of the mean of the diagonal
            of G.
        forgettable: keep each task's share of G and Q, so that `forget` can take it out.
    """

    fits = True

    def __init__(
        self,
        feature_size: int,
        *,
        projection: int | None = 10_000,
        ridge: float | Literal["auto", "left_out"] = "auto",
        seed: int | None = None,
        kind: Kind = "relu",
        gamma: float = 1.0,
        relative: bool = False,
        forgettable: bool = False,
    ) -> None:
        super().__init__(feature_size)
        rules = ("auto", "left_out")
        wrong = ridge not in rules if isinstance(ridge, str) else ridge <= 0
        if wrong:
            raise ConfigError(
                expected='a ridge above 0, "auto" or "left_out"',
                got=repr(ridge),
                remedy="Change ridge.",
            )
        self.expand = RandomFeatures(feature_size, projection, kind=kind, gamma=gamma, seed=seed)
        self.ridge, self.width = ridge, self.expand.width
        self.relative = relative or ridge == "left_out"
        # Needed once rows are no longer kept.
        self.sample = RowSample(self.width, SAMPLE) if ridge == "left_out" else None
        of_task = SAMPLE if ridge == "left_out" else 0
        self.kept = KeptTasks(self.width, of_task) if forgettable else None
        double = torch.float64
        start = {"auto": 1.0, "left_out": START}[ridge] if isinstance(ridge, str) else ridge
        self._products: Tensor | None = None  # Z Zᵀ of the kept rows, grown with them
        self.sizes: list[int] = []  # kept rows by task
        self.register_buffer("chosen", torch.tensor(start, dtype=double))
        self.register_buffer("rows", torch.zeros(0, self.width, dtype=double))
        self.register_buffer("row_columns", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("gram", torch.zeros(0, self.width, dtype=double))
        self.register_buffer("cross", torch.zeros(self.width, 0, dtype=double))
        self.register_buffer("weight", torch.zeros(self.width, 0))

    def grow(self, n: int) -> None:
        """Add `n` classes without samples."""
        for name in ("cross", "weight"):
            old = self.get_buffer(name)
            setattr(self, name, torch.cat([old, old.new_zeros(self.width, n)], dim=1))

    def fit(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]) -> None:
        """Add a task's features, choose λ if asked to, and solve."""
        if not len(features):
            raise DataError(
                expected="at least one training sample", got="none", remedy="Pass the task's data."
            )
        check_finite(features)
        columns = self.columns(labels)
        rows = self.expand(features).to(self.get_buffer("rows").dtype)
        check_finite(rows)  # large features may overflow in the projection
        if self.ridge == "auto":
            targets = F.one_hot(columns, len(self.classes)).to(rows)
            ridges = RELATIVE_RIDGES if self.relative else RIDGES
            ridge, _ = choose_ridge(rows, targets, ridges, relative=self.relative)
            self.get_buffer("chosen").fill_(ridge)
        if self.kept is not None:
            self.kept.add(rows, labels)
        self.add(rows, columns)
        self.solve()

    def left_out(
        self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Return the squared error of each sample under a head fitted on the other samples.

        `‖yᵢ − ŷᵢ‖²`, with the λ that is best for these samples, whatever the head's own; nothing
        is learned. It takes the eigenvectors of an n × n matrix.

        Raises:
            DataError: features that are not finite.
        """
        check_finite(features)
        rows = self.expand(features).to(self.get_buffer("rows").dtype)
        _, columns = torch.unique(labels.to(rows.device), return_inverse=True)
        _, residuals = leave_one_out(rows, F.one_hot(columns).to(rows))
        return residuals.square().sum(dim=1)

    def add(self, rows: Float[Tensor, "n M"], columns: Int[Tensor, " n"]) -> None:
        """Add rows of random features to the statistics."""
        gram = self.get_buffer("gram")
        kept, kept_columns = self.get_buffer("rows"), self.get_buffer("row_columns")
        targets = F.one_hot(columns, len(self.classes)).to(rows)
        self.get_buffer("cross").add_(rows.T @ targets)
        if len(gram):
            gram.addmm_(rows.T, rows)
        elif len(kept) + len(rows) < self.width:
            self._products = self._extended(kept, rows)
            self.sizes.append(len(rows))
            self.rows = torch.cat([kept, rows])
            self.row_columns = torch.cat([kept_columns, columns])
        else:
            self.drop_rows()
            self.get_buffer("gram").addmm_(rows.T, rows)
        if self.sample is not None and len(self.get_buffer("gram")):
            self.sample.add(rows, self._labels(columns))

    def _labels(self, columns: Tensor) -> Tensor:
        classes = torch.tensor(self.classes, dtype=torch.int64, device=columns.device)
        return classes[columns]

    def drop_rows(self) -> None:
        """Go over from rows to their Gram matrix."""
        rows, columns = self.get_buffer("rows"), self.get_buffer("row_columns")
        if self.sample is not None:
            self.sample.add(rows, self._labels(columns))
        self._products, self.sizes = None, []
        self.gram = rows.T @ rows
        self.rows, self.row_columns = rows[:0].clone(), columns[:0].clone()

    def _extended(self, kept: Tensor, rows: Tensor) -> Tensor:
        """Return Z Zᵀ with new rows; only what is new is multiplied."""
        side = kept @ rows.T
        upper = torch.cat([self._known(), side], dim=1)
        return torch.cat([upper, torch.cat([side.T, rows @ rows.T], dim=1)])

    def _known(self) -> Tensor:
        """Return Z Zᵀ of the kept rows, made task by task also after loading: the same bits."""
        rows = self.get_buffer("rows")
        if self._products is None or len(self._products) != len(rows):
            made, start = rows.new_zeros(0, 0), 0
            for size in self.sizes:
                old, new = rows[:start], rows[start : start + size]
                side = old @ new.T
                upper = torch.cat([made, side], dim=1)
                made = torch.cat([upper, torch.cat([side.T, new @ new.T], dim=1)])
                start += size
            self._products = made
        return self._products

    def solve(self) -> None:
        """Compute the weights from the statistics, and λ where it is chosen on them."""
        gram, cross = self.get_buffer("gram"), self.get_buffer("cross")
        if len(gram):
            weight = self._solve_primal(gram, cross)
        elif len(self.get_buffer("rows")):
            weight = self._solve_dual(self.get_buffer("rows"))
        else:
            weight = torch.zeros_like(cross)
        self.weight = weight.float().contiguous()  # as it is after loading, to the last bit

    def _solve_primal(self, gram: Tensor, cross: Tensor) -> Tensor:
        scale = float(gram.diagonal().sum() / self.width) if self.relative else 1.0
        if self.sample is None:
            return solve_primal(gram, cross, float(self.get_buffer("chosen")) * scale)
        rows, columns = self.sample.get_buffer("rows"), self.columns(self.sample.labels)
        targets = F.one_hot(columns, len(self.classes)).to(gram)
        few = self.sample.seen <= FEW
        share, weight = best_primal(gram, cross, rows.to(gram), targets, scale, few=few)
        self.get_buffer("chosen").fill_(share)
        return weight

    def _solve_dual(self, rows: Tensor) -> Tensor:
        scale = float(rows.square().sum() / self.width) if self.relative else 1.0
        columns = self.get_buffer("row_columns")
        targets, products = F.one_hot(columns, len(self.classes)).to(rows), self._known()
        if self.sample is None:
            return solve_dual(rows, targets, float(self.get_buffer("chosen")) * scale, products)
        places = sampled(rows, self._labels(columns), self.sample.size)
        share, alpha = best_dual(products, targets, places, scale, few=len(rows) <= FEW)
        self.get_buffer("chosen").fill_(share)
        return rows.T @ alpha

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return `Z W`; −inf for a class without samples."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.expand(features) @ self.get_buffer("weight")
        absent = ~self.get_buffer("cross").any(dim=0)
        return logits.masked_fill(absent, -math.inf)

    def clear(self) -> None:
        """Become a head without classes; the random features stay."""
        self.classes, self.groups = [], []
        self.restore(
            {
                "groups": [],
                "rows": [],
                "gram": 0,
                "kept": None if self.kept is None else [],
                "sample": {"rows": 0, "seen": 0},
            }
        )
        for name in ("cross", "weight"):
            setattr(self, name, self.get_buffer(name).new_zeros(self.width, 0))

    def join(self, other: Head) -> None:
        """Add the statistics of another head; see `merge_heads`."""
        assert isinstance(other, RidgeHead)
        merge_heads(self, other)

    def forget(self, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Take a task's share out; see `forget_task`."""
        forget_task(self, task)

    def layout(self) -> dict[str, Any]:
        """Return the classes, and how many rows are kept."""
        gram = len(self.get_buffer("gram"))
        kept = None if self.kept is None else self.kept.layout()
        sample = {} if self.sample is None else {"sample": self.sample.layout()}
        return {**super().layout(), "rows": self.sizes, "gram": gram, "kept": kept, **sample}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the statistics of `layout`."""
        super().restore(layout)
        rows, columns = self.get_buffer("rows"), self.get_buffer("row_columns")
        self.sizes, self._products = list(layout["rows"]), None
        self.rows = rows.new_zeros(sum(self.sizes), self.width)
        self.row_columns = columns.new_zeros(sum(self.sizes))
        self.gram = self.get_buffer("gram").new_zeros(layout["gram"], self.width)
        if self.kept is not None:
            self.kept.restore(layout["kept"])
        if self.sample is not None:
            self.sample.restore(layout["sample"])
