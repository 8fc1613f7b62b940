"""ConvPool: prompts that small kernels generate from one shared embedding by convolution."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpool.blocks import block_list
from cpool.errors import PoolError
from cpool.initialisers import Initialiser, constant, uniform
from cpool.pool import PromptPool
from cpool.selection import Selection

__all__ = ["ConvPool"]


class ConvPool(PromptPool):
    """Slot m is `conv(E, κ_m) + b_m`, head by head; E is shared, κ_m and b_m are the slot's own.

    Roy et al., *ConvPrompt*, CVPR 2024. A convolution is linear in its kernel, so a
    weighted sum of slots is one convolution with the summed kernels, and costs the same for any
    number of slots. Blocks hold kernels, k² + 1 numbers a head, and freeze as always; E trains
    with every task, since it belongs to none.

    Args:
        sites, length: S and P, as for `PromptPool`.
        heads: H, which have an embedding and a kernel each.
        head_width: the width of a head; W is H times that.
        kernel: k, its height and width.
        init: E starts from this, given its shape [S H P+k−1 head_width+k−1]; U(−1, 1) by default.

    >>> pool = ConvPool(2, length=3, heads=2, head_width=4, kernel=3)
    >>> pool.grow(5, task=0), pool.values().shape, pool.blocks[0].shape
    (range(0, 5), torch.Size([5, 2, 3, 8]), torch.Size([5, 2, 2, 10]))
    """

    apart: ClassVar[bool] = False  # E is everybody's
    shortens: ClassVar[bool] = False

    def __init__(
        self,
        sites: int,
        length: int,
        heads: int,
        head_width: int,
        kernel: int,
        init: Initialiser | None = None,
    ) -> None:
        super().__init__(sites, length, heads * head_width, constant(0.0))
        if min(heads, head_width, kernel) < 1:
            raise PoolError(
                expected="heads, head_width and kernel of at least 1",
                got=f"heads={heads}, head_width={head_width}, kernel={kernel}",
                remedy="A kernel of 1 only scales and shifts the embedding.",
            )
        self.heads, self.kernel = heads, kernel
        shape = (sites, heads, length + kernel - 1, head_width + kernel - 1)
        self.embedding = nn.Parameter((init or uniform())(shape))

    def grow(
        self,
        n: int,
        init: Initialiser | None = None,
        *,
        task: int | None = None,
        name: str | None = None,
        parent: int | None = None,
    ) -> range:
        """Add a block of `n` kernels, from U(−1/k, 1/k) unless `init` makes them [n S H k²+1]."""
        slots = super().grow(n, None, task=task, name=name, parent=parent)
        shape = (n, self.sites, self.heads, self.kernel**2 + 1)
        made = (init or uniform(-1 / self.kernel, 1 / self.kernel))(shape)
        self.blocks[-1] = nn.Parameter(made.to(self.embedding))
        return slots

    def generate(self, kernels: Float[Tensor, "B S H k"]) -> Float[Tensor, "B S P W"]:
        """Return the prompts of kernels: k² weights, row by row, and a shift, for each head."""
        k = self.kernel
        patches = self.embedding.unfold(2, k, 1).unfold(3, k, 1).flatten(4)  # [S H P E k²]
        prompts = torch.einsum("bshk,shpek->bsphe", kernels[..., :-1], patches)
        shift = kernels[..., -1].unsqueeze(2).unsqueeze(-1)
        return (prompts + shift).flatten(3)

    def values(self) -> Float[Tensor, "M S P W"]:
        """Return what each slot generates."""
        if not len(self):
            return super().values()  # raises
        return self.generate(torch.cat(list(block_list(self.blocks))))

    def read(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape S P W"]:
        """Return what the slots of these numbers generate."""
        if not len(self):
            return super().values()  # raises
        kernels = torch.cat(list(block_list(self.blocks)))[index.reshape(-1)]
        return self.generate(kernels).view(*index.shape, self.sites, self.length, self.width)

    def gather(self, selection: Selection) -> Float[Tensor, "B S N W"]:
        """Read the chosen slots; a weighted sum is taken of the kernels."""
        if selection.weight is None:
            return super().gather(selection)
        kernels = torch.cat(list(block_list(self.blocks)))
        dense = selection.weight.new_zeros(len(selection.index), len(self))
        dense = dense.scatter_add(1, selection.index, selection.weight).to(kernels.dtype)
        return self.generate((dense @ kernels.flatten(1)).view(-1, *kernels.shape[1:]))

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the blocks of a `layout`, ready for `load_state_dict`."""
        super().restore(layout)
        shape = (self.sites, self.heads, self.kernel**2 + 1)
        for number, block in enumerate(block_list(self.blocks)):
            zeros = self.embedding.new_zeros(len(block), *shape)
            self.blocks[number] = nn.Parameter(zeros, requires_grad=block.requires_grad)
