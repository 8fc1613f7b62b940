"""How a query picks prompts. Policies own keys; the pool owns values."""

from cpool.policies.base import Policy
from cpool.policies.everything import Everything
from cpool.policies.nearest_centroid import NearestCentroid
from cpool.policies.soft_attention import SoftAttention
from cpool.policies.top_k import TopK

__all__ = ["POLICIES", "Everything", "NearestCentroid", "Policy", "SoftAttention", "TopK"]

POLICIES: dict[str, type[Policy]] = {
    "everything": Everything,
    "nearest_centroid": NearestCentroid,
    "soft_attention": SoftAttention,
    "top_k": TopK,
}
