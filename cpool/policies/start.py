"""Keys that start from data: the centres of a task's first queries."""

from bisect import bisect_right

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.blocks import block_list, starts_of
from cpool.policies.keys import KeyBlocks

__all__ = ["start_keys"]

SAMPLE = 10_000  # queries that k-means looks at; more move its centres very little


@torch.no_grad()
def start_keys(
    keys: KeyBlocks,
    owner: Int[Tensor, " M"],
    query: Float[Tensor, "n Q"],
    task: int,
    seed: int = 0,
) -> None:
    """Set the trainable keys of `task` to k-means centres of its normalised queries.

    Keys drawn from U(-1, 1) are nearly orthogonal to every query and far longer than one, so the
    pull of the key loss hardly turns them: the few that happen to lie nearest take all queries
    (pool collapse). A centre on the unit sphere starts where queries are. Keys that all tasks
    share are set in task 0 only. Where there are fewer distinct queries than keys, the rest stay
    as they were.

    Args:
        keys: the keys; only blocks that still train are touched.
        owner: the task of each slot, -1 for shared ones.
        query: training queries of the task.
        task: the task.
        seed: of k-means and of the sample it sees.
    """
    from sklearn.cluster import KMeans

    mine = (owner == task) | ((owner == -1) & (task == 0))
    blocks = block_list(keys.blocks)
    trains = torch.cat([torch.full((len(b),), b.requires_grad) for b in blocks])
    slots = (mine.cpu() & trains).nonzero()[:, 0].tolist()
    rows = F.normalize(query.float(), dim=1).cpu()
    if len(rows) > SAMPLE:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        rows = rows[order[:SAMPLE]]
    count = min(len(slots), len(torch.unique(rows, dim=0)))
    if not count:
        return
    fitted = KMeans(count, random_state=seed, n_init=3).fit(rows.double().numpy())
    centres = F.normalize(torch.as_tensor(fitted.cluster_centers_).float(), dim=1)
    starts = starts_of(keys.sizes())
    for slot, centre in zip(slots, centres, strict=False):
        place = bisect_right(starts, slot) - 1
        blocks[place][slot - starts[place]] = centre.to(blocks[place])
