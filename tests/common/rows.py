"""The rows of the common grid: adding a method adds one line here, and nothing else."""

from collections.abc import Callable

from cpool.methods import L2P, NCM, DualPrompt, FineTune, Joint, LinearHead, Method, RanPAC
from tests import tiny

# Sizes fit the tiny models of `tests.tiny`, which have three layers.
ROWS: dict[str, Callable[[], Method]] = {
    "l2p": lambda: L2P(pool_size=4, top_k=2, length=2),
    "l2p_growing": lambda: L2P(slots_per_task=2, top_k=2, length=2),
    "l2p_diverse": lambda: L2P(pool_size=4, top_k=1, length=2, diversify=True),
    "dualprompt": lambda: DualPrompt(
        general_layers=(0,), expert_layers=(1, 2), general_length=2, expert_length=3
    ),
    "linear_head": LinearHead,
    "linear_head_frozen": lambda: LinearHead(freeze_old=True),
    "fine_tune": FineTune,
    "ncm": NCM,
    "ranpac": lambda: RanPAC(projection=40),
    "joint": lambda: Joint(of="l2p", options={"pool_size": 4, "top_k": 2, "length": 2}),
}

PREFIXES = ("dualprompt",)


def refused(row: str, kind: str) -> bool:
    """Return whether a row cannot run on a kind: its attention cannot be reached for prefixes."""
    return row in PREFIXES and kind in tiny.NO_PREFIX
