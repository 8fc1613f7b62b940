"""TaskInference: a classifier of queries says the class, and the slot is that of its task."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from cpool.errors import ConfigError
from cpool.gaussians import ClassGaussians, replay
from cpool.policies.base import Policy
from cpool.policies.ranking import largest
from cpool.selection import Selection

__all__ = ["TaskInference"]

_WEIGHTS = ("first", "first_bias", "second", "second_bias", "gain", "shift", "head", "head_bias")


class TaskInference(Policy):
    """Infer the class of a query, and from it the task and the slot.

    `h = LN(q + W₂ GELU(W₁ q + b₁) + b₂)`, `l = W h + b`; slot of `argmax_c l_c` (Wang et al.,
    *HiDe-Prompt*, NeurIPS 2023, and its code). At the end of a task the network is
    trained on the task's queries, its classes alone competing, and then, from the second task on,
    on draws from a Gaussian of queries of every class seen, all competing. It is no part of what
    the learner trains: its tensors are buffers that change at the end of a task only. In training
    every sample gets the slot of its task.

    Args:
        query_size: Q.
        hidden: rows of W₁.
        epochs, lr, batch_size: of Adam on the task's queries.
        per_class, replay_epochs, replay_lr: of SGD on draws, as for `replay`.
        covariance, jitter: of the Gaussians.
    """

    needs_end: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True

    def __init__(
        self,
        query_size: int,
        *,
        hidden: int | None = None,
        epochs: int = 20,
        lr: float = 5e-4,
        batch_size: int = 64,
        per_class: int = 256,
        replay_epochs: int = 30,
        replay_lr: float = 0.005,
        covariance: Literal["full", "diagonal"] = "full",
        jitter: float = 1e-4,
    ) -> None:
        super().__init__()
        if min(epochs, batch_size, per_class) < 1 or replay_epochs < 0 or min(lr, replay_lr) <= 0:
            raise ConfigError(
                expected="epochs, batch_size and per_class of at least 1, rates above 0",
                got=f"epochs={epochs}, batch_size={batch_size}, per_class={per_class}, "
                f"replay_epochs={replay_epochs}, lr={lr}, replay_lr={replay_lr}",
                remedy="Use replay_epochs=0 to train on the newest task alone.",
            )
        self.epochs, self.lr, self.batch_size = epochs, lr, batch_size
        self.per_class, self.replay_epochs, self.replay_lr = per_class, replay_epochs, replay_lr
        self.gaussians = ClassGaussians(query_size, covariance=covariance, jitter=jitter)
        hidden = 2 * query_size if hidden is None else hidden
        shapes = [(hidden, query_size), (hidden,), (query_size, hidden), (query_size,)]
        bounds = [query_size**-0.5, query_size**-0.5, hidden**-0.5, hidden**-0.5]
        for name, shape, bound in zip(_WEIGHTS, shapes, bounds, strict=False):
            self.register_buffer(name, torch.empty(shape).uniform_(-bound, bound))
        self.register_buffer("gain", torch.ones(query_size))
        self.register_buffer("shift", torch.zeros(query_size))
        self.register_buffer("head", torch.zeros(0, query_size))
        self.register_buffer("head_bias", torch.zeros(0))

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose the task's slot in training, that of the inferred class's task at test."""
        assert query is not None
        allowed = self.candidates(available)
        loss = query.new_zeros(())
        if task is not None:
            own = self.candidates(allowed & self.own(task)).nonzero()[:, 0]
            return Selection(own.expand(len(query), -1), None, loss)
        slots = self.slots()
        logits = self.logits(query).masked_fill(~allowed[slots], -torch.inf)
        best = largest(logits, 1)
        return Selection(slots[best], None, loss, logits.gather(1, best))

    @property
    def trained_extra(self) -> int:
        """How many numbers the network trains, which the learner's optimiser does not see."""
        return sum(self.get_buffer(name).numel() for name in _WEIGHTS)

    def slots(self) -> Int[Tensor, " C"]:
        """Return the slot of each class: that of the last task with it, or the one before."""
        reached = self.owner[None, :] <= self.gaussians.task[:, None]
        owners = self.owner.expand_as(reached).masked_fill(~reached, -1)
        return owners.argmax(dim=1)

    @torch.no_grad()
    def logits(self, query: Float[Tensor, "B Q"]) -> Float[Tensor, "B C"]:
        """Return the logits of the classes seen, in the order of `gaussians.labels`."""
        return _answer({name: self.get_buffer(name) for name in _WEIGHTS}, query.float())

    def end_classes(
        self, query: Float[Tensor, "n Q"], labels: Int[Tensor, " n"], task: int
    ) -> None:
        """Add the Gaussians of the task's classes, and train the network."""
        query = query.detach().float()
        self.gaussians.fit(query, labels, task)
        new = len(self.gaussians) - len(self.get_buffer("head"))
        for name in ("head", "head_bias"):
            old = self.get_buffer(name)
            rows = torch.empty(new, *old.shape[1:]).normal_(0, 0.02) * (old.dim() - 1)
            setattr(self, name, torch.cat([old, rows.to(old)]))
        with torch.enable_grad():
            weights = {n: self.get_buffer(n).clone().requires_grad_() for n in _WEIGHTS}
            self._learn(weights, query, labels)
            if task > 0:
                self._replay(weights)
        for name, weight in weights.items():
            setattr(self, name, weight.detach())

    def _columns(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        return (labels[:, None] == self.gaussians.labels[None, :]).int().argmax(dim=1)

    def _learn(
        self,
        weights: dict[str, Tensor],
        query: Float[Tensor, "n Q"],
        labels: Int[Tensor, " n"],
    ) -> None:
        """Train on the queries of a task, whose classes compete."""
        columns = self._columns(labels)
        absent = torch.ones(len(self.gaussians), dtype=torch.bool, device=query.device)
        absent[columns] = False
        optimizer = Adam(list(weights.values()), self.lr)
        for _ in range(self.epochs):
            order = torch.randperm(len(query)).to(query.device)
            for batch in torch.split(order, self.batch_size):
                logits = _answer(weights, query[batch]).masked_fill(absent, -torch.inf)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(F.cross_entropy(logits, columns[batch]))
                optimizer.step()

    def _replay(self, weights: dict[str, Tensor]) -> None:
        """Train on draws of all classes, which all compete."""
        replay(
            self.gaussians,
            list(weights.values()),
            lambda rows, labels: F.cross_entropy(_answer(weights, rows), self._columns(labels)),
            per_class=self.per_class,
            epochs=self.replay_epochs,
            lr=self.replay_lr,
        )

    def layout(self) -> dict[str, Any]:
        """Return the number of slots, and the layout of the Gaussians."""
        return {**super().layout(), "gaussians": self.gaussians.layout()}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the classes of `layout`."""
        super().restore(layout)
        self.gaussians.restore(layout["gaussians"])
        for name in ("head", "head_bias"):
            old = self.get_buffer(name)
            setattr(self, name, old.new_zeros(len(self.gaussians), *old.shape[1:]))


def _answer(weights: Mapping[str, Tensor], query: Float[Tensor, "B Q"]) -> Float[Tensor, "B C"]:
    """Return the logits of the network."""
    hidden = F.gelu(F.linear(query, weights["first"], weights["first_bias"]))
    mapped = query + F.linear(hidden, weights["second"], weights["second_bias"])
    normed = F.layer_norm(mapped, mapped.shape[1:], weights["gain"], weights["shift"])
    return F.linear(normed, weights["head"], weights["head_bias"])
