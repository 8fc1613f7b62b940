"""A prompter over slots that are there already: each text gets the slot whose texts are nearest."""

from collections.abc import Sequence

from cpool.backbones import Backbone
from cpool.errors import DataError
from cpool.policies import NearestCentroid
from cpool.pool import PromptPool
from cpool.prompter import Branch, Prompter, Site

__all__ = ["routed"]


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
