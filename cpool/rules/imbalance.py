"""Imbalance: samples that the batch would overrule, and weak classes, count for more."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.heads import anchored
from cpool.heads.masked import MaskedHead
from cpool.rule import Rule

__all__ = ["Imbalance"]


class Imbalance(Rule):
    """Replace the cross-entropy by `mean_i [(1 − α) + α u_i^γ] CE(head(f_i / v_i), y_i)`.

    The answer of *MVP* (Moon et al., ICCV 2023, section 3.4) to classes of unequal size, in two
    parts, neither of which has a gradient of its own:

    - u_i = 1 − cos(∂CE_i/∂w, ∂mean_j CE_j/∂w), w the head's row of class y_i: how little the
      sample's pull on its class agrees with the batch's (gradient-similarity focal loss);
    - v_i = 1 − cos(w, f_i) + margin: features far from the row of their class are shortened, and
      learned harder (adaptive feature scaling); at test features are as they are.

    The public code weights the mean of the losses by the mean of the weights; here each sample has
    its own weight, as the equation says.

    Args:
        alpha: α in [0, 1].
        gamma: γ.
        margin: above 0, so that no feature is divided by 0.
    """

    def __init__(self, alpha: float = 0.5, gamma: float = 2.0, margin: float = 0.5) -> None:
        super().__init__()
        self.alpha, self.gamma, self.margin = alpha, gamma, margin

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], output: Any, task: int | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the term "imbalance", which is the difference to the plain cross-entropy."""
        head: MaskedHead = model.head
        features: Tensor = output.features.float()
        target = head.columns(batch["labels"].to(features.device))
        expert = next(iter(output.selections.values())).index[:, 0].expand(len(features))
        closed = None
        if model.mask == "task" and task is not None:
            mine = set(model.tasks[task])
            closed = torch.tensor([c not in mine for c in head.classes], device=features.device)

        def competing(rows: Tensor) -> Tensor:
            logits: Tensor = head(rows, expert).float()
            if closed is not None:
                logits = logits.masked_fill(closed, -torch.inf)
            return anchored(logits, model.anchor)

        with torch.no_grad():
            own = head.rows()[target].float()
            scale = 1 - F.cosine_similarity(own, features) + self.margin
            shares = competing(features).softmax(dim=1)[:, : len(head.classes)]
            ignored = self._ignored(shares, head.factors(expert), features, target)
            weight = (1 - self.alpha) + self.alpha * ignored**self.gamma
        each = F.cross_entropy(competing(features / scale[:, None]), target, reduction="none")
        return {"imbalance": (weight * each).mean() - output.losses["cross_entropy"]}

    @staticmethod
    def _ignored(
        shares: Float[Tensor, "B C"],
        factors: Float[Tensor, "B C"],
        features: Float[Tensor, "B F"],
        target: Int[Tensor, " B"],
    ) -> Float[Tensor, " B"]:
        """Return u; of logits `s_c (w_c·f + b_c)` the gradient at w_c is `(p_c − 1[y=c]) s_c f`."""
        pull = (shares - F.one_hot(target, shares.shape[1])) * factors
        whole = pull.T @ features / len(features)
        alone = pull.gather(1, target[:, None]) * features
        return 1 - F.cosine_similarity(alone, whole[target])
