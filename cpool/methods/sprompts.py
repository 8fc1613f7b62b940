"""S-Prompts (Wang et al., NeurIPS 2022): prompts and a head a domain, found by k-means."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.heads import ExpertHead, LinearHead
from cpool.initialisers import uniform
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import NearestCentroid
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, Prompter
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["SPrompts"]


@dataclass(frozen=True)
class SPrompts(Method):
    """`x_d = [CLS; P_d; x_e]`, `d = argmin_d min_c ‖q̂(x) − k_dc‖₁`, answered by domain d's head.

    q̂ is the normalised query of the unprompted model, k_dc the c-th k-means centre of domain d's
    training queries. Loss: CE over the domain's classes; prompts and heads of finished domains
    are frozen, nothing is shared, so the only forgetting is a wrong domain
    (https://arxiv.org/abs/2207.12819, section 3.3; image version, S-iPrompts).

    Where paper and code differ: the code takes the L1 distance, where the paper's "nearest"
    suggests L2 (`metric`), and its evaluation counts predictions modulo the number of classes, so
    that the domain chosen is not itself scored. Here a prediction is a class. In a
    class-incremental stream each expert knows the classes of its task, and the others get −inf.

    Attributes:
        length: prompt tokens a domain.
        centroids: k-means centres a domain.
        metric: distance to the centres.
        init: prompts start from U(-init, init).
        seed: of k-means.
    """

    name: ClassVar[str] = "sprompts"
    summary: ClassVar[str] = "prompts and a head a domain, routed by k-means (Wang et al. 2022)"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=0.01, epochs=10, batch_size=128, optimizer="sgd", momentum=0.9, schedule="cosine"
    )

    length: int = 10
    centroids: int = 5
    metric: Literal["l1", "l2"] = "l1"
    init: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        self.need(is_number(self.init) and self.init > 0, "init", "above 0 and finite")
        self.need(is_whole(self.centroids) and self.centroids >= 1, "centroids", "at least 1")
        self.need(self.metric in ("l1", "l2"), "metric", '"l1" or "l2"')

    def compose(self, backbone: Backbone) -> PromptedModel:
        """One branch at the embedding, and a head for each of its slots."""
        site = EmbeddingSite()
        init = uniform(-self.init, self.init)
        pool = PromptPool(site.sites, self.length, backbone.hidden_size, init)
        policy = NearestCentroid(
            backbone.query_size, self.centroids, metric=self.metric, seed=self.seed
        )
        branch = Branch("domain", pool, policy, site, per_task=1)
        size = backbone.query_size
        head = ExpertHead(size, lambda: LinearHead(size))
        return PromptedModel(backbone, head, Prompter([branch]), readout="query")
