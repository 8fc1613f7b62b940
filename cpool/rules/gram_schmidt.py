"""GramSchmidt: new components of a soft-attention branch start away from the old ones."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cpool.blocks import block_list
from cpool.policies.soft_attention import SoftAttention
from cpool.rule import Rule

__all__ = ["GramSchmidt", "gram_schmidt"]


def gram_schmidt(old: Float[Tensor, "M W"], draws: Float[Tensor, "n W"]) -> Float[Tensor, "n W"]:
    """Return `draws` less their projections on all rows before them, each of norm 1.

    `u_k = v_k − Σ_{j<k} (v_k·u_j / u_j·u_j) u_j`, j over the old rows and the new ones before k,
    which are divided by their norms only at the end. This is the classical form, and old rows
    that were trained are no longer orthogonal: so new rows are nearly, not exactly, orthogonal to
    them, as in the code of CODA-Prompt. A draw of which nothing is left (more rows than
    dimensions) is taken as it is.

    Args:
        old: rows that stay.
        draws: a normal draw for each new row.

    >>> gram_schmidt(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[0., 1.]])
    """
    rows = list(old)
    for draw in draws:
        left = draw
        for row in rows:
            left = left - (draw @ row) / row.square().sum().clamp_min(1e-12) * row
        gone = left.norm() < 1e-4 * draw.norm()
        rows.append(draw if bool(gone) else left)
    return F.normalize(torch.stack(rows[len(old) :]), dim=1)


class GramSchmidt(Rule):
    """Start the newest keys, attention vectors and prompts by `gram_schmidt` against older ones.

    The published code of CODA-Prompt does so at the start of every task, with normal draws, where
    its paper writes an orthogonality loss. Prompts count as rows of P·W numbers.
    """

    @torch.no_grad()
    def begin(self, model: Any, task: int) -> None:
        """Set the rows that the task has just added, in every soft-attention branch."""
        for blocks in _blocks(model):
            if not blocks[-1].requires_grad:
                continue  # the branch added nothing
            new = blocks[-1].flatten(1)
            old = [block.flatten(1) for block in blocks[:-1]]
            before = torch.cat(old) if old else new[:0]
            made = gram_schmidt(before, torch.randn(new.shape).to(new))
            blocks[-1].copy_(made.view_as(blocks[-1]))


def _blocks(model: Any) -> Iterator[list[nn.Parameter]]:
    for branch in model.prompter:
        if isinstance(branch.policy, SoftAttention):
            yield from (block_list(part.blocks) for part in branch.policy.learned())
            yield block_list(branch.pool.blocks)
