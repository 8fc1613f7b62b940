"""Ridge regression on random features, additive over tasks."""

from cpool.ridge.exact import forget_task, merge_heads
from cpool.ridge.expansion import Kind, RandomFeatures
from cpool.ridge.head import RidgeHead
from cpool.ridge.solve import (
    RELATIVE_RIDGES,
    RIDGES,
    choose_ridge,
    leave_one_out,
    solve_dual,
    solve_primal,
)

__all__ = [
    "RELATIVE_RIDGES",
    "RIDGES",
    "Kind",
    "RandomFeatures",
    "RidgeHead",
    "choose_ridge",
    "forget_task",
    "leave_one_out",
    "merge_heads",
    "solve_dual",
    "solve_primal",
]
