"""Rules: terms of the loss and steps at the boundaries, one a file."""

from cpool.rules.alignment import GaussianAlignment
from cpool.rules.anchor import Anchor
from cpool.rules.content_free import ContentFree
from cpool.rules.contrast import MeanContrast
from cpool.rules.dark import DarkRehearsal
from cpool.rules.demonstrations import Demonstrations
from cpool.rules.distillation import Distillation
from cpool.rules.domains import Domains
from cpool.rules.ewc import ElasticPenalty
from cpool.rules.gram_schmidt import GramSchmidt
from cpool.rules.imbalance import Imbalance
from cpool.rules.memory import Memory
from cpool.rules.neighbours import Neighbours
from cpool.rules.orthogonality import OrthogonalityNorm
from cpool.rules.outliers import VirtualOutliers
from cpool.rules.prompt_teacher import PromptTeacher
from cpool.rules.query_pool import QueryPool
from cpool.rules.rehearsal import Rehearsal
from cpool.rules.template_search import TemplateSearch
from cpool.rules.undo import HeadBackup

__all__ = [
    "Anchor",
    "ContentFree",
    "DarkRehearsal",
    "Demonstrations",
    "Distillation",
    "Domains",
    "ElasticPenalty",
    "GaussianAlignment",
    "GramSchmidt",
    "HeadBackup",
    "Imbalance",
    "MeanContrast",
    "Memory",
    "Neighbours",
    "OrthogonalityNorm",
    "PromptTeacher",
    "QueryPool",
    "Rehearsal",
    "TemplateSearch",
    "VirtualOutliers",
]
