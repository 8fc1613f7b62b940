"""Heads: from features [B F] to logits [B C] over the classes seen so far."""

from cpool.heads.base import Head, anchored, check_finite
from cpool.heads.completion import CompletionHead
from cpool.heads.cosine import CosineHead
from cpool.heads.expert import ExpertHead
from cpool.heads.label import LabelHead
from cpool.heads.linear import LinearHead
from cpool.heads.masked import MaskedHead
from cpool.heads.prototype import PrototypeHead
from cpool.heads.session import SessionHead
from cpool.heads.slda import SLDAHead
from cpool.heads.subspace import SubspaceHead

__all__ = [
    "CompletionHead",
    "CosineHead",
    "ExpertHead",
    "Head",
    "LabelHead",
    "LinearHead",
    "MaskedHead",
    "PrototypeHead",
    "SLDAHead",
    "SessionHead",
    "SubspaceHead",
    "anchored",
    "check_finite",
]
