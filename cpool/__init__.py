"""cpool: continual learning with a growing pool of soft prompts on a frozen model.

>>> import cpool
>>> backbone = cpool.load_backbone("embedded")
>>> model = cpool.L2P(pool_size=4, top_k=2).build(backbone)
"""

from cpool._version import __version__
from cpool.backbones import Backbone, load_backbone, wrap_model
from cpool.data import batches
from cpool.errors import CpoolError
from cpool.learner import Learner
from cpool.methods import L2P, METHODS, NCM, DualPrompt, Joint, LinearHead, PromptRidge, RanPAC
from cpool.metrics import AccuracyMatrix
from cpool.model import Output, PromptedModel
from cpool.pool import PromptPool
from cpool.prompter import Branch, Prompter
from cpool.settings import TrainSettings
from cpool.streams import Stream, Task, load_stream

__all__ = [
    "L2P",
    "METHODS",
    "NCM",
    "AccuracyMatrix",
    "Backbone",
    "Branch",
    "CpoolError",
    "DualPrompt",
    "Joint",
    "Learner",
    "LinearHead",
    "Output",
    "PromptPool",
    "PromptRidge",
    "PromptedModel",
    "Prompter",
    "RanPAC",
    "Stream",
    "Task",
    "TrainSettings",
    "__version__",
    "batches",
    "load_backbone",
    "load_stream",
    "wrap_model",
]
