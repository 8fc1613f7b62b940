"""Eviction: a pool of bounded size, and a record of what each step lost.

Only slots of frozen blocks are evicted; what trains now, and what stays, is untouched to the bit.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch

from cpool.blocks import block_list
from cpool.errors import ConfigError, PoolError
from cpool.policies.base import Policy
from cpool.policies.eviction_steps import (
    Eviction,
    drop_disabled,
    drop_least_used,
    merge_nearest,
    to_components,
)
from cpool.pool import PromptPool

__all__ = ["Eviction", "How", "evict"]

How: TypeAlias = Literal["usage", "merge", "pca"]


@torch.no_grad()
def evict(pool: PromptPool, policy: Policy, capacity: int, how: How = "usage") -> list[Eviction]:
    """Make pool and policy fit `capacity` slots, and say what was lost.

    To be called after growth, before an optimiser is made. Slots that are disabled go first.

    - "usage": drop the slot that the fewest training queries chose (optimiser steps, where the
      policy does not count queries), the oldest first among equals.
    - "merge": replace the two slots of nearest keys by one, keys and values averaged by usage,
      until it fits. It compares all pairs of keys: for pools of up to some thousand slots.
    - "pca": replace all old slots by r at once, their mean and mean plus one standard deviation
      along each of the r − 1 leading principal components; keys are combined alike. The r slots
      span the subspace that holds most of the old values' variance.

    Args:
        pool: the values.
        policy: the keys of the same slots.
        capacity: slots that may stay, those that train now among them.
        how: the strategy.

    Returns:
        One record a step; none if the pool fits.

    Raises:
        PoolError: pool and policy differ in size, the slots that train leave no room, or the
            policy has no keys that the strategy needs.
        ConfigError: an unknown strategy.
    """
    steps: dict[str, Callable[[PromptPool, Policy, int, list[int]], Eviction]]
    steps = {"usage": drop_least_used, "merge": merge_nearest, "pca": to_components}
    if how not in steps:
        raise ConfigError(expected=f"one of {list(steps)}", got=repr(how), remedy="Choose one.")
    old = _old(pool)
    fewest = len(pool) - len(old) + (how != "usage")
    if len(pool) != len(policy) or (len(pool) > capacity and capacity < fewest):
        raise PoolError(
            expected=f"a pool and a policy of equal size, and a capacity of at least {fewest}",
            got=f"{len(pool)} and {len(policy)} slots, capacity {capacity}",
            remedy="Slots that train now cannot be evicted: freeze them, or allow for more.",
        )
    records = []
    while (excess := len(pool) - capacity) > 0:
        old = _old(pool)
        off = [slot for slot in old if not pool.enabled[slot]][:excess]
        step = drop_disabled if off else steps[how]
        records.append(step(pool, policy, capacity, off or old))
    return records


def _old(pool: PromptPool) -> list[int]:
    frozen = [
        torch.full((len(block),), not block.requires_grad) for block in block_list(pool.blocks)
    ]
    return torch.cat(frozen).nonzero()[:, 0].tolist() if frozen else []
