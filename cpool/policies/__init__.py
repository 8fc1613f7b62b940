"""How a query picks prompts. Policies own keys; the pool owns values."""

from cpool.policies.attended_sources import AttendedSources
from cpool.policies.base import Policy
from cpool.policies.counted import Counted
from cpool.policies.domain_router import DomainRouter
from cpool.policies.everything import Everything
from cpool.policies.eviction import Eviction, evict
from cpool.policies.gaussian_router import GaussianRouter
from cpool.policies.mixture import Mixture
from cpool.policies.nearest_centroid import NearestCentroid
from cpool.policies.novelty import novelty, threshold_for
from cpool.policies.own_slot import OwnSlot
from cpool.policies.projected import Projected
from cpool.policies.recall import recall_at
from cpool.policies.shared_attention import SharedAttention
from cpool.policies.soft_attention import SoftAttention
from cpool.policies.task_inference import TaskInference
from cpool.policies.top_k import TopK
from cpool.policies.up_to_task import UpToTask

__all__ = [
    "POLICIES",
    "AttendedSources",
    "Counted",
    "DomainRouter",
    "Everything",
    "Eviction",
    "GaussianRouter",
    "Mixture",
    "NearestCentroid",
    "OwnSlot",
    "Policy",
    "Projected",
    "SharedAttention",
    "SoftAttention",
    "TaskInference",
    "TopK",
    "UpToTask",
    "evict",
    "novelty",
    "recall_at",
    "threshold_for",
]

POLICIES: dict[str, type[Policy]] = {
    "attended_sources": AttendedSources,
    "counted": Counted,
    "domain_router": DomainRouter,
    "everything": Everything,
    "gaussian_router": GaussianRouter,
    "mixture": Mixture,
    "nearest_centroid": NearestCentroid,
    "own_slot": OwnSlot,
    "projected": Projected,
    "shared_attention": SharedAttention,
    "soft_attention": SoftAttention,
    "task_inference": TaskInference,
    "top_k": TopK,
    "up_to_task": UpToTask,
}
