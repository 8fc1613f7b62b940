"""The steps of eviction: each makes some room in pool and policy, and records what it lost."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.blocks import Plan, block_list
from cpool.errors import PoolError
from cpool.policies.base import Policy
from cpool.policies.principal import components
from cpool.pool import PromptPool

__all__ = ["Eviction", "drop_disabled", "drop_least_used", "merge_nearest", "to_components"]


@dataclass(frozen=True)
class Eviction:
    """One step of making room.

    Attributes:
        how: "usage", "merge" or "pca"; "disabled" for slots that were dropped since they were off.
        gone: ids of the slots that are no more.
        heirs: ids of the slots that stand for them: the one of the nearest key, the merged one,
            the principal components; none where there are no keys to tell.
        error: ‖V − V̂‖ / ‖V‖ of the values that are gone, V̂ what stands for them; 1 for nothing.
        key_distance: mean distance of the keys that are gone to the nearest key of an heir, as
            the policy measures keys; None where it has none.
        usage: share of the pool's training usage that the slots had.
    """

    how: str
    gone: tuple[int, ...]
    heirs: tuple[int, ...]
    error: float
    key_distance: float | None
    usage: float


def drop_disabled(pool: PromptPool, policy: Policy, capacity: int, off: list[int]) -> Eviction:
    """Drop slots that are switched off."""
    gone, usage = _ids(pool, off), _share(pool, policy, off)
    _apply(pool, policy, _identity(pool, dropped=set(off)))
    return Eviction("disabled", gone, (), 1.0, None, usage)


def drop_least_used(pool: PromptPool, policy: Policy, capacity: int, old: list[int]) -> Eviction:
    """Drop the slot of least usage; the record names the slot of the nearest key."""
    usage = _usage(pool, policy)
    slot = min(old, key=lambda i: float(usage[i]))
    heirs: tuple[int, ...] = ()
    error, distance = 1.0, None
    vectors = _vectors(policy)
    if vectors is not None and len(pool) > 1:
        gaps = (vectors - vectors[slot]).norm(dim=1)
        gaps[slot] = torch.inf
        near = int(gaps.argmin())
        value = pool.read(torch.tensor([slot, near])).double()
        error = _relative(value[0], value[1])
        heirs, distance = _ids(pool, [near]), float(gaps[near])
    gone, share = _ids(pool, [slot]), _share(pool, policy, [slot])
    _apply(pool, policy, _identity(pool, dropped={slot}))
    return Eviction("usage", gone, heirs, error, distance, share)


def merge_nearest(pool: PromptPool, policy: Policy, capacity: int, old: list[int]) -> Eviction:
    """Replace the two slots of nearest keys by their mean, weighted by usage."""
    vectors = policy.vectors()[old]
    gaps = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    gaps.fill_diagonal_(torch.inf)
    lengths = torch.tensor(pool.lengths, device=gaps.device)[old]
    gaps[lengths[:, None] != lengths] = torch.inf  # slots of one length have a mean
    if not bool(gaps.isfinite().any()):
        raise pool.different_lengths("a merge of two")
    first, second = sorted(divmod(int(gaps.argmin()), len(old)))
    pair = [old[first], old[second]]
    usage = _usage(pool, policy)[pair]
    part = float(usage[0] / usage.sum()) if float(usage.sum()) > 0 else 0.5
    before, gone = pool.read(torch.tensor(pair)).double(), _ids(pool, pair)
    total = _share(pool, policy, pair)
    plan = _identity(pool, dropped={pair[1]}, changed={pair[0]: {pair[0]: part, pair[1]: 1 - part}})
    _apply(pool, policy, plan)
    merged = pool.read(torch.tensor([pair[0]])).double()
    after = policy.vectors()[pair[0]]
    distance = float((vectors[[first, second]] - after).norm(dim=1).mean())
    return Eviction(
        "merge", gone, _ids(pool, [pair[0]]), _relative(before, merged), distance, total
    )


def to_components(pool: PromptPool, policy: Policy, capacity: int, old: list[int]) -> Eviction:
    """Replace all old slots by their mean and leading components."""
    values = pool.read(torch.tensor(old)).double().flatten(1)
    gone, share, keys = _ids(pool, old), _share(pool, policy, old), _vectors(policy)
    room = capacity - (len(pool) - len(old))
    mixing, restored = components(values, room)
    rows = [dict(zip(old, row.tolist(), strict=True)) for row in mixing]
    rest = _identity(pool, dropped=set(old))
    _apply(pool, policy, [rows, *rest])
    distance = None
    if keys is not None:
        new = policy.vectors()[: len(rows)]
        distance = float(torch.cdist(keys[old], new).amin(dim=1).mean())
    heirs = _ids(pool, list(range(len(rows))))
    return Eviction("pca", gone, heirs, _relative(values, restored), distance, share)


def _identity(
    pool: PromptPool,
    dropped: set[int],
    changed: dict[int, dict[int, float]] | None = None,
) -> Plan:
    """Return the plan that leaves all as it is, but for what is dropped and changed."""
    plan, start = [], 0
    for block in block_list(pool.blocks):
        rows = [
            (changed or {}).get(slot, {slot: 1.0})
            for slot in range(start, start + len(block))
            if slot not in dropped
        ]
        start += len(block)
        if rows:
            plan.append(rows)
    return plan


def _apply(pool: PromptPool, policy: Policy, plan: Plan) -> None:
    pool.check_plan(plan)
    policy.recombine(plan)  # first: it refuses what it cannot do, and the pool is still whole
    pool.recombine(plan)


def _ids(pool: PromptPool, places: list[int]) -> tuple[int, ...]:
    slots = pool.slots
    return tuple(slots[place].id for place in places)


def _usage(pool: PromptPool, policy: Policy) -> Float[Tensor, " M"]:
    counted = policy.usage()
    return pool.trained_steps.double() if counted is None else counted.double()


def _share(pool: PromptPool, policy: Policy, places: list[int]) -> float:
    usage = _usage(pool, policy)
    return float(usage[places].sum() / usage.sum().clamp_min(1))


def _vectors(policy: Policy) -> Float[Tensor, "M Q"] | None:
    try:
        return policy.vectors()
    except PoolError:
        return None


def _relative(value: Float[Tensor, "..."], stand_in: Float[Tensor, "..."]) -> float:
    return float((value - stand_in).norm() / value.norm().clamp_min(1e-300))
