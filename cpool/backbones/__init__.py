"""Frozen Hugging Face models: query features, sizes, processors."""

from cpool.backbones.base import Backbone
from cpool.backbones.families import BACKBONES
from cpool.backbones.loading import load_backbone, wrap_model
from cpool.backbones.text import Around, Truncations, TruncationWarning

__all__ = [
    "BACKBONES",
    "Around",
    "Backbone",
    "TruncationWarning",
    "Truncations",
    "load_backbone",
    "wrap_model",
]
