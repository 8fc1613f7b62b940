"""The largest of each row, with ties that do not depend on the batch."""

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["largest"]

# Below this width a full sort costs less than finding the rows whose ties need one.
SORTED = 256


def largest(score: Float[Tensor, "B M"], k: int) -> Int[Tensor, "B K"]:
    """Return the `k` largest of each row, largest first; ties go to the lowest slot number.

    `torch.topk` leaves ties unspecified, which would make a prediction depend on the batch.

    >>> import torch
    >>> largest(torch.tensor([[0.5, 0.9, 0.9]]), 2)
    tensor([[1, 2]])
    """
    width = score.shape[1]
    if width <= SORTED or k >= width:
        return _sorted(score, k)
    top = score.topk(k + 1, dim=1)
    # Which k they are is certain unless the last of them ties with the next one.
    place, order = top.indices[:, :k].sort(dim=1)
    value = top.values[:, :k].gather(1, order)
    index = place.gather(1, value.sort(dim=1, descending=True, stable=True).indices)
    tied = top.values[:, k - 1] == top.values[:, k]
    if bool(tied.any()):
        index[tied] = _sorted(score[tied], k)
    return index


def _sorted(score: Float[Tensor, "B M"], k: int) -> Int[Tensor, "B K"]:
    return score.sort(dim=1, descending=True, stable=True).indices[:, :k]
