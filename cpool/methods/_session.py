"""The prefix of a first session: one slot on all layers, trained once and then frozen."""

from typing import Any

import torch
from torch import Tensor

from cpool.backbones import Backbone
from cpool.initialisers import Initialiser
from cpool.policies import Policy
from cpool.pool import PromptPool
from cpool.prompter import Branch, PrefixSite
from cpool.settings import is_whole

__all__ = ["check_prefix", "prefix_normal", "session_branch"]


def prefix_normal(key_std: float = 0.5, value_std: float = 0.1) -> Initialiser:
    """Return the initialiser of prefixes: keys ~ N(0, key_std²), values ~ N(0, value_std²)."""

    # Of shape [M S P W]; said here, since dill, which writes Avalanche's checkpoints, cannot pickle
    # an inner function with a shape in its annotations.
    def init(shape: tuple[int, ...]) -> Tensor:
        values = torch.randn(shape)
        values[:, 0::2] *= key_std
        values[:, 1::2] *= value_std
        return values

    return init


def session_branch(
    backbone: Backbone, length: int, policy: Policy, *, sessions: int | None = None
) -> Branch:
    """Return a branch of prefixes on all layers that adds a slot in its first `sessions` tasks."""
    site = PrefixSite(tuple(range(backbone.num_layers)), backbone.num_kv_heads)
    width = backbone.num_kv_heads * backbone.head_dim
    pool = PromptPool(site.sites, length, width, prefix_normal())
    return Branch("session", pool, policy, site, per_task=1, sessions=sessions)


def check_prefix(method: Any) -> None:
    """Refuse a prefix without tokens."""
    method.need(is_whole(method.length) and method.length >= 1, "length", "at least 1")
