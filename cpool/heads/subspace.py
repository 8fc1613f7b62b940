"""SubspaceHead: prototypes in the feature space of every slot; missing ones are synthesised."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.errors import ConfigError, DataError
from cpool.heads.base import Head, check_finite, need_classes

__all__ = ["SubspaceHead", "synthesise"]


class SubspaceHead(Head):
    """Logit of class c: `γ(f_o, p_{c,o}) + α · mean_{d≠o} γ(f_d, p_{c,d})`, o the class's own slot.

    Zhou et al., *EASE*, CVPR 2024. f_d are the features of slot d's pass, p_{c,d}
    the mean of class c in them. When a slot is new, old classes have no samples to run through
    it: their prototypes there are put together from those of other classes, see `synthesise`.
    Kept are sums and counts in float64; what is synthesised is worked out anew from them.

    Args:
        feature_size: F, of one slot; `forward` and `fit` take M of them side by side.
        weight: α. The code divides by the number of other slots, the paper's sum does not.
        donors: a missing prototype in slot d is made of the classes of slot d's own "task"
            (paper), or of "all" that have samples there, later tasks too (the code's default).

    Attributes:
        sums, counts: of the features of each class in each slot.
        own: the newest slot there was when a class was first fitted, -1 before.
    """

    fits = True

    def __init__(
        self,
        feature_size: int,
        *,
        weight: float = 0.1,
        donors: Literal["task", "all"] = "task",
    ) -> None:
        super().__init__(feature_size)
        if donors not in ("task", "all") or weight < 0:
            raise ConfigError(
                expected='a weight of at least 0, donors "task" or "all"',
                got=f"weight={weight}, donors={donors!r}",
                remedy="Change them.",
            )
        self.weight, self.donors = weight, donors
        self.sums: Float64[Tensor, "C M F"]
        self.counts: Int[Tensor, "C M"]
        self.own: Int[Tensor, " C"]
        whole = torch.int64
        self.register_buffer("sums", torch.zeros(0, 0, feature_size, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(0, 0, dtype=whole))
        self.register_buffer("own", torch.zeros(0, dtype=whole))
        self._unit: Tensor | None = None  # worked out once, not for every batch

    def grow(self, n: int) -> None:
        """Add `n` classes without samples."""
        self._unit = None
        self.sums = torch.cat([self.sums, self.sums.new_zeros(n, *self.sums.shape[1:])])
        self.counts = torch.cat([self.counts, self.counts.new_zeros(n, self.counts.shape[1])])
        self.own = torch.cat([self.own, self.own.new_full((n,), -1)])

    def fit(self, features: Float[Tensor, "n MF"], labels: Int[Tensor, " n"]) -> None:
        """Add a task's features, those of all slots side by side."""
        check_finite(features)
        self._unit = None
        split, columns = self._split(features), self.columns(labels)
        if new := split.shape[1] - self.sums.shape[1]:
            self.sums = F.pad(self.sums, (0, 0, 0, new))
            self.counts = F.pad(self.counts, (0, new))
        self.sums.index_add_(0, columns, split.to(self.sums.dtype))
        self.counts += torch.bincount(columns, minlength=len(self.classes))[:, None]
        first = (self.own < 0) & (self.counts[:, -1] > 0)
        self.own = self.own.masked_fill(first, split.shape[1] - 1)

    def _split(self, features: Float[Tensor, "n MF"]) -> Float[Tensor, "n M F"]:
        slots, rest = divmod(features.shape[1], self.feature_size)
        if rest or slots < self.sums.shape[1]:
            raise DataError(
                expected=f"features of {max(1, self.sums.shape[1])} slots or more, each of "
                f"{self.feature_size}",
                got=f"{features.shape[1]}",
                remedy="Build the model with apart=True, so that every slot has its pass.",
            )
        return features.view(len(features), slots, self.feature_size)

    def prototypes(self) -> Float64[Tensor, "C M F"]:
        """Return the prototype of every class in every slot, of samples or synthesised."""
        means = self.sums / self.counts.clamp_min(1).unsqueeze(2)
        return synthesise(means, self.counts > 0, self.own, self.donors)

    def forward(self, features: Float[Tensor, "B MF"]) -> Float[Tensor, "B C"]:
        """Return the reweighted cosines; −inf for a class without samples."""
        need_classes(self.classes)
        slots = self.sums.shape[1]
        split = F.normalize(self._split(features)[:, :slots].float(), dim=2)
        if self._unit is None or self._unit.device != split.device:
            self._unit = F.normalize(self.prototypes(), dim=2).float()
        cosine = torch.einsum("bmf,cmf->bcm", split, self._unit)
        weight = torch.full((len(self.classes), slots), self.weight / max(slots - 1, 1))
        weight = weight.to(cosine).scatter(1, self.own.clamp_min(0).unsqueeze(1), 1.0)
        logits = (cosine * weight).sum(dim=2)
        return logits.masked_fill(self.own < 0, -math.inf)

    def layout(self) -> dict[str, Any]:
        """Return the classes, and the number of slots."""
        return {**super().layout(), "slots": self.sums.shape[1]}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the statistics of `layout`."""
        self.sums = self.sums.new_zeros(0, layout["slots"], self.feature_size)
        self.counts = self.counts.new_zeros(0, layout["slots"])
        self.own = self.own.new_zeros(0)
        super().restore(layout)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._unit = None


def synthesise(
    means: Float64[Tensor, "C M F"],
    known: Any,
    own: Int[Tensor, " C"],
    donors: Literal["task", "all"],
) -> Float64[Tensor, "C M F"]:
    """Fill in `p_{c,d} = Σ_j softmax_j(γ(p_{c,o}, p_{j,o})) p_{j,d}` where class c is unknown.

    j runs over the classes that are known in slot d and in c's own slot o, and, for donors
    "task", whose own slot is d: the similarity is that of the old space, what is mixed is of the
    new one.

    Args:
        means: of the samples.
        known: where there are samples, [C M].
        own: the own slot of each class, -1 for none.
        donors: "task" or "all".
    """
    filled = means.clone()
    unit = F.normalize(means, dim=2)
    for c, o in enumerate(own.tolist()):
        for d in range(means.shape[1]) if o >= 0 else ():
            if bool(known[c, d]):
                continue
            able = known[:, d] & known[:, o]
            if donors == "task":
                able = able & (own == d)
            if bool(able.any()):
                share = (unit[able, o] @ unit[c, o]).softmax(dim=0)
                filled[c, d] = share @ means[able, d]
    return filled
