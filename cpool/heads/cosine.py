"""CosineHead: a classifier of scaled cosines, started at the class means."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpool.heads.base import Head, check_finite, need_classes

__all__ = ["CosineHead"]


class CosineHead(Head):
    """Logits `s · γ(f, w_c)`, one vector w_c a class, one block of them a task.

    Args:
        feature_size: F.
        scale: s.
        from_means: start the vectors of new classes at the mean features of their training
            samples, as the model gives them without a prompt.
    """

    def __init__(self, feature_size: int, *, scale: float = 20.0, from_means: bool = True) -> None:
        super().__init__(feature_size)
        self.scale, self.starts = scale, from_means
        self.weights = nn.ParameterList()
        self.register_buffer("anchor", torch.zeros(0), persistent=False)  # knows the device

    def grow(self, n: int) -> None:
        """Add `n` vectors."""
        device = self.get_buffer("anchor").device
        self.weights.append(nn.Parameter(torch.randn(n, self.feature_size).to(device)))

    @torch.no_grad()
    def start(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]) -> None:
        """Put the newest vectors at the mean of the normalised features of their classes."""
        check_finite(features)
        unit, columns = F.normalize(features, dim=1), self.columns(labels)
        first = len(self.classes) - len(self.weights[-1])
        for row in range(len(self.weights[-1])):
            mine = unit[columns == first + row]
            if len(mine):
                self.weights[-1][row] = mine.mean(dim=0)

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the scaled cosines."""
        need_classes(self.classes)
        weight = F.normalize(torch.cat(list(self.weights)), dim=1)
        return self.scale * F.normalize(features.to(weight.dtype), dim=1) @ weight.T
