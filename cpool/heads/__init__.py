"""Heads: from features [B F] to logits [B C] over the classes seen so far."""

from cpool.heads.base import Head, check_finite
from cpool.heads.cosine import CosineHead
from cpool.heads.expert import ExpertHead
from cpool.heads.linear import LinearHead
from cpool.heads.prototype import PrototypeHead
from cpool.heads.session import SessionHead

__all__ = [
    "CosineHead",
    "ExpertHead",
    "Head",
    "LinearHead",
    "PrototypeHead",
    "SessionHead",
    "check_finite",
]
