"""Slots that are there already: a pool of them, and a prompter that sends each text to one."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.backbones import Backbone
from cpool.errors import DataError, PoolError
from cpool.initialisers import from_values
from cpool.policies import NearestCentroid
from cpool.pool import PromptPool
from cpool.prompter import Branch, Prompter, Site

__all__ = ["pool_of", "routed"]


def pool_of(values: Sequence[Float[Tensor, "S _ W"]], names: Sequence[str]) -> PromptPool:
    """Return a pool with a frozen slot a task; slots may have different numbers of tokens.

    Args:
        values: of each slot; the pool is as long as the longest.
        names: theirs.

    Raises:
        PoolError: slots of different sites or width.
    """
    sites, _, width = values[0].shape
    for value, name in zip(values, names, strict=True):
        if value.shape[::2] != (sites, width):
            raise PoolError(
                expected=f"slots of {sites} sites and width {width}, as that of {names[0]!r}",
                got=f"{value.shape[0]} and {value.shape[2]} of {name!r}",
                remedy="Make a pool of slots for one place in the model.",
            )
    length = max(value.shape[1] for value in values)
    pool = PromptPool(sites, length, width)
    for number, (value, name) in enumerate(zip(values, names, strict=True)):
        room = torch.nn.functional.pad(value, (0, 0, 0, length - value.shape[1]))
        slot = pool.grow(1, from_values(room[None]), task=number, name=name)[0]
        pool.shorten(slot, value.shape[1])
    pool.mark_trained(torch.arange(len(pool))[:, None])
    pool.freeze_all()
    return pool


def routed(
    name: str,
    pool: PromptPool,
    site: Site,
    texts: Sequence[Sequence[str]],
    backbone: Backbone,
    *,
    centroids: int = 5,
) -> Prompter:
    """Return a prompter whose keys are k-means centres of the features of a few texts a slot.

    Args:
        name: of its branch.
        pool: slots that stay as they are.
        site: where they enter.
        texts: some texts of the use of each slot, in the order of the pool.
        backbone: whose unprompted features are compared.
        centroids: centres a slot.

    Raises:
        DataError: texts for other than each slot, or none for one.
    """
    if len(texts) != len(pool) or not all(len(rows) for rows in texts):
        raise DataError(
            expected=f"at least one text for each of {len(pool)} slots",
            got=f"{[len(rows) for rows in texts]}",
            remedy="Give a few typical inputs of each.",
        )
    policy = NearestCentroid(backbone.query_size, centroids)
    for number, rows in enumerate(texts):
        policy.grow(1, number)
        policy.end_task(backbone.query(backbone.prepare(list(rows))), number)
    prompter = Prompter([Branch(name, pool, policy, site, per_task=1)])
    prompter.started = list(range(len(pool)))
    return prompter.to(backbone.device)
