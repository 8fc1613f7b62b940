"""GaussianAlignment: the head is trained again on features drawn from each class's Gaussian."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.errors import ConfigError
from cpool.gaussians import ClassGaussians, replay
from cpool.rule import Rule

__all__ = ["GaussianAlignment", "normed"]


class GaussianAlignment(Rule):
    """At the end of a task, keep N(μ_c, Σ_c) of its features and retrain the head on draws of all.

    A head that trains on one task after the other leans to the newest one; drawn features of all
    classes, as many of each, straighten it without any stored sample. The "classifier alignment"
    of SLCA (Zhang et al., ICCV 2023) and the task-adaptive prediction of HiDe-Prompt
    (Wang et al., NeurIPS 2023): new draws an epoch, SGD with a cosine schedule over
    the epochs, cross-entropy over all classes seen; after the first task there is nothing to
    straighten.

    Args:
        feature_size: F, of what the head reads.
        per_class: draws of each class an epoch, and the size of a batch.
        epochs, lr, momentum, weight_decay: of SGD.
        covariance: "full", or "diagonal", which keeps one row a class.
        logit_norm: τ of SLCA's normalised logits, see `normed`; None for the logits themselves.
        mean_decay: draw the classes of old tasks nearer to 0, with the mean
            `μ_c (1 − mean_decay (1 − (t_c + 1) / T))`; 0.1 in the code of SLCA.
        jitter: see `ClassGaussians`.
    """

    needs_end: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    def __init__(
        self,
        feature_size: int,
        *,
        per_class: int = 256,
        epochs: int = 30,
        lr: float = 0.005,
        covariance: Literal["full", "diagonal"] = "full",
        logit_norm: float | None = None,
        mean_decay: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        jitter: float = 1e-4,
    ) -> None:
        super().__init__()
        wrong = logit_norm is not None and logit_norm <= 0
        if per_class < 1 or epochs < 0 or lr <= 0 or wrong:
            raise ConfigError(
                expected="per_class of at least 1, epochs of at least 0, lr and logit_norm above 0",
                got=f"per_class={per_class}, epochs={epochs}, lr={lr}, logit_norm={logit_norm}",
                remedy="Use epochs=0 to leave the head as it was trained.",
            )
        self.per_class, self.epochs, self.lr = per_class, epochs, lr
        self.logit_norm, self.mean_decay = logit_norm, mean_decay
        self.momentum, self.weight_decay = momentum, weight_decay
        self.gaussians = ClassGaussians(feature_size, covariance=covariance, jitter=jitter)

    def end(
        self,
        model: Any,
        batches: Iterable[Mapping[str, Tensor]],
        features: Float[Tensor, "n F"] | None,
        labels: Int[Tensor, " n"] | None,
        task: int,
    ) -> None:
        """Keep the Gaussians of the task, and from the second task on retrain the head."""
        assert features is not None and labels is not None
        self.gaussians.fit(features.detach(), labels, task)
        if task == 0:
            return
        head = model.head

        def loss(rows: Tensor, labels: Tensor) -> Tensor:
            logits = head(rows)
            if self.logit_norm is not None:
                logits = normed(logits, head.groups, self.logit_norm)
            return F.cross_entropy(logits, head.columns(labels))

        replay(
            self.gaussians,
            [p for p in head.parameters() if p.requires_grad],  # frozen rows stay
            loss,
            per_class=self.per_class,
            epochs=self.epochs,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            scale=1 - self.mean_decay * (1 - (self.gaussians.task + 1) / (task + 1)),
        )

    def layout(self) -> dict[str, Any]:
        """Return that of the Gaussians."""
        return self.gaussians.layout()

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the Gaussians."""
        self.gaussians.restore(layout)


def normed(
    logits: Float[Tensor, "B C"], groups: Sequence[Sequence[int]], temperature: float
) -> Float[Tensor, "B C"]:
    """Return `l / (τ n)`, n the mean over tasks of the norm of the task's own logits.

    The paper of SLCA writes the norm of all logits; its code takes this mean, so that n does not
    grow with the number of tasks.

    Args:
        logits: columns in the order of the groups.
        groups: the new classes of each task; a task without any does not count.
        temperature: τ.

    >>> normed(torch.tensor([[3.0, 4.0, 0.0, 1.0]]), [[5, 8], [2, 3]], 1.0)
    tensor([[1.0000, 1.3333, 0.0000, 0.3333]])
    """
    sizes = [len(group) for group in groups if group]
    norms = [part.norm(dim=1) + 1e-7 for part in torch.split(logits, sizes, dim=1)]
    return logits / (temperature * torch.stack(norms).mean(dim=0)).unsqueeze(1)
