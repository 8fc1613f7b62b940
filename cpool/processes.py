"""Processes: each runs its share of a batch through the frozen model, and all get the features.

The pass through the backbone is what costs; everything behind it is small. So a group of processes
shares the passes alone: each runs some rows of a batch, the features are gathered, and head,
policies, rules and closed-form statistics see the whole batch in every process. Whatever a method
computes over a batch is then what one process computes, and what it draws is drawn alike.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.errors import DataError

__all__ = ["Processes"]


class Processes:
    """The processes that work on one model in step, through accelerate; by default there is one.

    All of them have to call the same methods of a learner in the same order with the same data.

    Args:
        accelerator: an `accelerate.Accelerator`; None for one process.

    >>> alone = Processes()
    >>> alone.count, alone.share(5), alone.gather(torch.ones(5, 2), 5).shape
    (1, slice(0, 5, None), torch.Size([5, 2]))
    """

    def __init__(self, accelerator: Any = None) -> None:
        self.accelerator = accelerator
        self.count = 1 if accelerator is None else int(accelerator.num_processes)
        self.rank = 0 if accelerator is None else int(accelerator.process_index)

    def __deepcopy__(self, memo: Any) -> "Processes":
        # A copy of a model works in the same group.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Processes, ()  # a group is no part of what is stored

    def share(self, size: int, rank: int | None = None) -> slice:
        """Return which rows of `size` are this process's, or another's: equal shares, in order."""
        rank = self.rank if rank is None else rank
        return slice(size * rank // self.count, size * (rank + 1) // self.count)

    def gather(self, own: Float[Tensor, "b F"], size: int) -> Float[Tensor, "B F"]:
        """Return the rows of all processes, in order.

        Backwards, the gradients that all processes have of a row are summed where it came from:
        each computes the whole loss, so that with the mean over processes (`mean_gradients`) what
        is in front of the pass gets the gradient of one process, and so does what is behind it.

        Args:
            own: this process's rows, as many as `share` says.
            size: B.
        """
        if self.count == 1:
            return own
        gathered: Tensor = _Gather.apply(own, self, size)
        return gathered

    def spread(self, compute: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        """Return a function of rows that runs this process's share and returns the rows of all.

        Args:
            compute: from an array or list to one row each, without gradient.
        """
        if self.count == 1:
            return compute

        def together(rows: Any) -> Tensor:
            mine = rows[self.share(len(rows))]
            # A process without a row runs one, whose features nobody asks for.
            made = compute(mine if len(mine) else rows[:1])[: len(mine)]
            device = self.accelerator.device
            return self.gather(made.to(device), len(rows)).to(made.device)

        return together

    def mean_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Give each parameter the mean of its gradients in all processes.

        One that has no gradient in any process keeps none, so that optimisers leave it alone.
        """
        if self.count == 1 or not parameters:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        known = torch.tensor([float(p.grad is not None) for p in parameters])
        flat = torch.cat([grad.reshape(-1).float() for grad in grads])
        flat = torch.cat([flat, known.to(flat.device)])
        flat = self.accelerator.reduce(flat, "mean")
        sizes = [p.numel() for p in parameters]
        *parts, found = torch.split(flat, [*sizes, len(parameters)])
        for parameter, part, some in zip(parameters, parts, found.tolist(), strict=True):
            if some:
                parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def check_same(self, what: str, digest: str) -> None:
        """Refuse to go on where processes differ in something they have to share.

        Args:
            what: it is called.
            digest: of it.

        Raises:
            DataError: in all processes, naming those that differ.
        """
        if self.count == 1:
            return
        from accelerate.utils import gather_object

        found = gather_object([digest])
        differ = [rank for rank, other in enumerate(found) if other != found[0]]
        if differ:
            raise DataError(
                expected=f"the same {what} in all {self.count} processes, which share its passes",
                got=f"another one in process {', '.join(map(str, differ))} than in process 0",
                remedy="Load the whole data in every process; each runs its share by itself.",
            )

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            self.accelerator.wait_for_everyone()

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0


class _Gather(torch.autograd.Function):
    """All rows of all processes; backwards the sum of the gradients of one's own rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Processes, size: int) -> Tensor:
        from accelerate.utils import gather

        ctx.group, ctx.size = group, size
        sizes = [_length(group.share(size, rank)) for rank in range(group.count)]
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        whole: Tensor = gather(padded)
        starts = [rank * max(sizes) for rank in range(group.count)]
        return torch.cat([whole[a : a + n] for a, n in zip(starts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        from accelerate.utils import reduce

        (grad,) = grads
        whole: Tensor = reduce(grad.contiguous(), "sum")
        return whole[ctx.group.share(ctx.size)], None, None


def _length(rows: slice) -> int:
    return int(rows.stop) - int(rows.start)
