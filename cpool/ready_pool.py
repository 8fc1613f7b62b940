"""A pool of slots that are there already, and stay as they are."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cpool.errors import PoolError
from cpool.initialisers import from_values
from cpool.pool import PromptPool

__all__ = ["pool_of"]


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
        room = F.pad(value, (0, 0, 0, length - value.shape[1]))
        slot = pool.grow(1, from_values(room[None]), task=number, name=name)[0]
        pool.shorten(slot, value.shape[1])
    pool.mark_trained(torch.arange(len(pool))[:, None])
    pool.freeze_all()
    return pool
