"""Transfer between slots: which tasks are alike, and which slot a new one should start from."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from cpool.errors import ConfigError
from cpool.policies import GaussianRouter
from cpool.policies.ranking import largest
from cpool.pool import PromptPool

__all__ = ["Source", "best_source", "slot_similarity"]


class Source(NamedTuple):
    """A slot to start from.

    Attributes:
        slot: its place in the pool.
        nearness: minus the distance of its task; the larger, the more alike.
    """

    slot: int
    nearness: float


@torch.no_grad()
def best_source(
    router: GaussianRouter,
    query: Float[Tensor, "n Q"],
    k: int = 1,
    available: Bool[Tensor, " M"] | None = None,
) -> list[Source]:
    """Return the slots whose tasks are most like the one of these queries, the most like first.

    `−d_t`, `d²_t = (μ − μ_t)ᵀ Σ⁻¹ (μ − μ_t)`, with μ the mean of the queries, and μ_t and Σ those
    of the router. SPoT (Vu et al., ACL 2022) compares the prompts of both tasks, for which the new
    one has to be trained already (`slot_similarity`); queries are there before any training.

    Args:
        router: of the pool; slots of tasks that have not ended are no sources.
        query: unprompted features of the new task.
        k: how many slots at most.
        available: those that may be chosen; all by default.

    Raises:
        ConfigError: k below 1.

    >>> router = GaussianRouter(2, normalize=False)
    >>> for task, x in enumerate((0.0, 5.0)):
    ...     router.grow(1, task); router.end_task(torch.tensor([[x, -1.0], [x, 1.0]]), task)
    >>> [source.slot for source in best_source(router, torch.tensor([[4.0, 0.0]]), k=2)]
    [1, 0]
    """
    if k < 1:
        raise ConfigError(
            expected="k of at least 1", got=str(k), remedy="Say how many slots to return."
        )
    known = router.count > 0
    if available is not None:
        known = known & available
    if not bool(known.any()):
        return []
    score = (-router.mean_distance(query)).masked_fill(~known, -torch.inf)
    order = largest(score[None], min(k, int(known.sum())))[0].tolist()
    return [Source(slot, float(score[slot])) for slot in order]


@torch.no_grad()
def slot_similarity(pool: PromptPool) -> Float[Tensor, "M M"]:
    """Return the cosine between slots, each averaged over its tokens: a map of the tasks.

    `cos((1/P) Σ_i p_i^m, (1/P) Σ_j p_j^n)`, the task embedding of SPoT (Vu et al., ACL 2022); the
    averages of several sites stand one after the other. It compares what was trained from starts
    that are alike on one backbone, and says nothing across backbones.

    >>> from cpool.initialisers import from_values
    >>> pool = PromptPool(1, length=2, width=2)
    >>> values = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]], [[[2.0, 2.0], [2.0, 2.0]]]])
    >>> pool.grow(2, from_values(values)), slot_similarity(pool)[0, 1].round(decimals=4)
    (range(0, 2), tensor(1.))
    """
    means = F.normalize(pool.values().float().mean(dim=2).flatten(1), dim=1)
    return means @ means.T
