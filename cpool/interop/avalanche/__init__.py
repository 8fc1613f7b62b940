"""cpool in Avalanche: a plugin for its strategies, one strategy, and streams both ways.

Avalanche is imported with this package, and comes with the extra `avalanche`.
"""

import importlib.util

from cpool.errors import missing_extra

if importlib.util.find_spec("avalanche") is None:
    raise missing_extra("avalanche")

from cpool.interop.avalanche.metrics import MatrixMetrics
from cpool.interop.avalanche.model import AvalancheModel, ToldAvalancheModel
from cpool.interop.avalanche.plugin import PromptPoolPlugin
from cpool.interop.avalanche.strategy import PromptStrategy
from cpool.interop.avalanche.streams import as_benchmark, as_stream

__all__ = [
    "AvalancheModel",
    "MatrixMetrics",
    "PromptPoolPlugin",
    "PromptStrategy",
    "ToldAvalancheModel",
    "as_benchmark",
    "as_stream",
]
