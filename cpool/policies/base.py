"""Policy: how a query picks slots. Policies own keys and centroids, never prompt values."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cpool.blocks import Plan, leading
from cpool.errors import PoolError
from cpool.selection import Selection

__all__ = ["Policy"]


class Policy(nn.Module):
    """Base of all policies: keeps whose slot is whose, and what each policy must say.

    `forward(query, task, available)` is given the task only in training (and where the protocol
    tells it at test), so a policy cannot leak it.
    """

    needs_query: ClassVar[bool] = True
    needs_start: bool = False  # of the object: it may depend on an option
    needs_end: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False  # whether it learns the classes of a task at its end
    bare: tuple[int, ...] = ()  # slots whose samples run without a prompt
    threshold: float | None = None  # least nearness of a query that fits a slot, where asked for

    def __init__(self) -> None:
        super().__init__()
        self.owner: Int[Tensor, " M"]
        self.register_buffer("owner", torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        """Return M, the number of slots that the policy knows."""
        return len(self.owner)

    def grow(self, n: int, task: int | None = None) -> None:
        """Take note of `n` new slots; -1 as owner means that all tasks share them."""
        new = self.owner.new_full((n,), -1 if task is None else task)
        self.owner = torch.cat([self.owner, new])

    def freeze_all(self) -> None:
        """Freeze whatever the policy has learned so far."""
        for parameter in self.parameters():
            parameter.requires_grad_(False).grad = None

    @abstractmethod
    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose slots for each query among the available ones."""

    def fits(self, index: Int[Tensor, "B 1"]) -> Bool[Tensor, " B"] | None:
        """Return which of the chosen slots have a prompt that is used; None where all have."""
        if not self.bare:
            return None
        return ~torch.isin(index[:, 0], torch.tensor(self.bare, device=index.device))

    def start_task(self, query: Float[Tensor, "n Q"], task: int) -> None:
        """Look at the training queries of a task before it is trained (policies that need it)."""

    def end_task(self, query: Float[Tensor, "n Q"], task: int) -> None:
        """Learn from all training queries of a finished task (policies that need it)."""

    def end_classes(
        self, query: Float[Tensor, "n Q"], labels: Int[Tensor, " n"], task: int
    ) -> None:
        """Learn from the training queries and labels of a finished task, before `end_task`."""

    def nearness(
        self, query: Float[Tensor, "B Q"], available: Bool[Tensor, " M"] | None = None
    ) -> Float[Tensor, " B"]:
        """Return how near each query is to the nearest slot; a threshold compares this number.

        Raises:
            PoolError: the policy has no keys to be near to.
        """
        raise PoolError(
            expected="a policy with keys or centroids that queries are compared with",
            got=type(self).__name__,
            remedy="Use TopK, Mixture, NearestCentroid or GaussianRouter.",
        )

    def vectors(self) -> Float[Tensor, "M Q"]:
        """Return where each slot lies, for distances between slots.

        Raises:
            PoolError: the policy has no keys.
        """
        raise PoolError(
            expected="a policy whose slots have keys",
            got=type(self).__name__,
            remedy='Evict by "usage" or "pca", which need no distance between keys.',
        )

    def usage(self) -> Float[Tensor, " M"] | None:
        """Return how many training queries each slot had, or None where nobody counts."""
        return None

    def recombine(self, plan: Plan) -> None:
        """Make what belongs to the slots anew by a plan of `cpool.blocks`; `evict` writes one.

        A combined slot belongs to the task of the slot that it is made of most.

        Raises:
            PoolError: the policy has more than owners, and does not say what becomes of it.
        """
        self.check_recombine()
        self.owner = self.owner[leading(plan)]

    def check_recombine(self) -> None:
        """Refuse a policy whose slots cannot be dropped or combined.

        Raises:
            PoolError: the policy has more than owners, and does not say what becomes of it.
        """
        # A part without tensors now may have some when a task has ended.
        more = set(self.state_dict()) != {"owner"} or any(True for _ in self.children())
        if type(self).recombine is Policy.recombine and more:
            raise PoolError(
                expected="a policy that can drop and combine slots",
                got=type(self).__name__,
                remedy="Give it a recombine of its own, or the pool no capacity.",
            )

    def _check_union(self, rows: list[list[int]]) -> None:
        """Refuse a plan in which an old slot becomes a part of several new ones."""
        parts = [slot for row in rows for slot in row]
        if len(parts) != len(set(parts)):
            raise PoolError(
                expected="slots that are kept, dropped or merged",
                got="combinations of all, which centroids have none of",
                remedy='Evict by "usage" or "merge", or use a policy with learned keys.',
            )

    def clear(self) -> None:
        """Become a policy without slots.

        Raises:
            PoolError: a policy whose slots depend on each other.
        """
        raise self.mingled()

    def join(self, other: "Policy", tasks: int) -> None:
        """Take over the slots of another policy, after one's own.

        Args:
            other: of the same kind and settings.
            tasks: how many tasks come before those of `other`.

        Raises:
            PoolError: a policy whose slots depend on each other.
        """
        raise self.mingled()

    def forget(self, task: int) -> None:
        """Become the policy that never saw a task: its slots go, later tasks move up.

        Raises:
            PoolError: a policy whose slots depend on each other, or that kept too little.
        """
        raise self.mingled()

    def mingled(self) -> PoolError:
        """Build the error for a policy whose slots cannot be told apart."""
        return PoolError(
            expected="a policy by which each task trains its own slots, whatever others there are",
            got=f"{type(self).__name__}, by which tasks share slots or build on earlier ones",
            remedy="Learn the tasks in sequence instead, with those that shall be known.",
        )

    def _take_owners(self, other: "Policy", tasks: int) -> None:
        moved = torch.where(other.owner < 0, other.owner, other.owner + tasks)
        self.bare = (*self.bare, *(slot + len(self) for slot in other.bare))
        self.owner = torch.cat([self.owner, moved.to(self.owner)])

    def _drop_owner(self, task: int) -> Int[Tensor, " m"]:
        """Take the slots of a task out, and return the places of those that stay."""
        places = (self.owner != task).nonzero()[:, 0]
        stay = places.tolist()
        self.bare = tuple(stay.index(slot) for slot in self.bare if slot in stay)
        owner = self.owner[places]
        self.owner = owner - (owner > task).to(owner.dtype)
        return places

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this policy again (JSON)."""
        threshold = None if self.threshold is None else float(self.threshold)
        return {"slots": len(self), "threshold": threshold}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the tensors of a `layout`, ready for `load_state_dict`."""
        self.owner = self.owner.new_zeros(layout["slots"])
        if "threshold" in layout:  # it is calibrated after training, so a method does not know it
            self.threshold = layout["threshold"]

    def chosen(self, slots: int) -> int:
        """Return how many of `slots` slots are put one after the other for a sample."""
        return min(1, slots)

    def own(self, task: int | None) -> Bool[Tensor, " M"]:
        """Return which slots belong to `task` or to everybody."""
        return (self.owner == (-2 if task is None else task)) | (self.owner == -1)

    def reached(self, available: Bool[Tensor, " M"] | None, task: int | None) -> Bool[Tensor, " M"]:
        """Return the slots that may be chosen, those of tasks up to `task` if it is told."""
        allowed = self.candidates(available)
        return allowed if task is None else self.candidates(allowed & (self.owner <= task))

    def candidates(self, available: Bool[Tensor, " M"] | None, need: int = 1) -> Bool[Tensor, " M"]:
        """Return the slots that may be chosen, after checking that `need` of them exist."""
        if available is None:
            available = torch.ones_like(self.owner, dtype=torch.bool)
        count = int(available.sum())
        if count < need:
            raise PoolError(
                expected=f"at least {need} slots that are enabled and may be chosen",
                got=f"{count} of {len(self)}",
                remedy="Train first, enable slots, grow the pool or choose a smaller top-k.",
            )
        return available
