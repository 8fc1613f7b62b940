"""DomainRouter: tasks share the slot of their domain; at test the query finds its domain."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpool.policies.base import Policy
from cpool.selection import Selection

__all__ = ["DomainRouter"]

_SHARE = ("counts", "sums", "moment")


class DomainRouter(Policy):
    """Send a query to the domain of the nearest class mean, in the Mahalanobis distance.

    `d(q) = argmin_d min_{c in d} (q − μ_dc)ᵀ Σ⁻¹ (q − μ_dc)`, Σ the covariance within classes that
    all domains share, shrunk towards its mean variance. Counts, sums and second moments add up in
    float64, so the order of the samples does not matter. With one domain a prediction needs no
    query.

    A domain may be bare: its samples are told that no prompt fits them, and run without one.

    Args:
        query_size: Q.
        shrinkage: share of the mean variance in Σ, in (0, 1].
        forgettable: keep each task's share of the sums, so that it can be taken out.
    """

    needs_labels: ClassVar[bool] = True

    def __init__(
        self, query_size: int, *, shrinkage: float = 0.1, forgettable: bool = False
    ) -> None:
        super().__init__()
        self.query_size, self.shrinkage = query_size, shrinkage
        self.forgettable = forgettable
        self.current: int | None = None  # the slot of the task to come; None for a new one
        self.slot_of: list[int] = []  # by task
        self.keys: list[tuple[int, int]] = []  # (slot, class) of each row
        self.shares: list[dict[str, list[int]]] = []  # what is kept of each task
        double = torch.float64
        self._white: tuple[Tensor, Tensor] | None = None  # factor of Σ, and the means whitened
        self.register_buffer("counts", torch.zeros(0, dtype=double))
        self.register_buffer("sums", torch.zeros(0, query_size, dtype=double))
        self.register_buffer("moment", torch.zeros(query_size, query_size, dtype=double))

    @property
    def needs_query(self) -> bool:  # type: ignore[override]
        """Whether there is anything to choose."""
        return len(self) > 1

    @property
    def needs_end(self) -> bool:  # type: ignore[override]
        """Whether it learns from the queries of a task: always, since more domains may come."""
        return True

    def assign(self, task: int, slot: int) -> None:
        """Let a task use a slot."""
        del self.slot_of[task:]
        self.slot_of.append(slot)

    def drop_newest(self) -> None:
        """Remove the newest slot, of which nothing is known yet."""
        self.owner = self.owner[:-1].clone()
        self.bare = tuple(slot for slot in self.bare if slot < len(self))

    def end_classes(
        self, query: Float[Tensor, "n Q"], labels: Int[Tensor, " n"], task: int
    ) -> None:
        """Add the queries of a task to the means of its classes in its domain."""
        rows = query.to(self.get_buffer("sums").dtype)
        names = sorted(set(labels.tolist()))
        counts = torch.stack([(labels == c).sum() for c in names]).to(rows)
        sums = torch.stack([rows[labels == c].sum(dim=0) for c in names])
        moment = rows.T @ rows
        self.add(self.slot_of[task], names, counts, sums, moment)
        if self.forgettable:
            self.shares.append({"classes": names})
            self.keep(task, counts, sums, moment)

    def keep(
        self,
        task: int,
        counts: Float[Tensor, " c"],
        sums: Float[Tensor, "c Q"],
        moment: Float[Tensor, "Q Q"],
    ) -> None:
        """Keep a task's share."""
        for name, tensor in zip(_SHARE, (counts, sums, moment), strict=True):
            self.register_buffer(f"kept_{name}_{task}", tensor)

    def add(
        self,
        slot: int,
        names: list[int],
        counts: Float[Tensor, " c"],
        sums: Float[Tensor, "c Q"],
        moment: Float[Tensor, "Q Q"],
        sign: float = 1.0,
    ) -> None:
        """Add sums of classes to a domain, or take them out with `sign` −1."""
        for label, count, total in zip(names, counts, sums, strict=True):
            if (slot, label) not in self.keys:
                self.keys.append((slot, label))
                old = self.get_buffer("counts"), self.get_buffer("sums")
                self.counts = torch.cat([old[0], old[0].new_zeros(1)])
                self.sums = torch.cat([old[1], old[1].new_zeros(1, self.query_size)])
            row = self.keys.index((slot, label))
            self.get_buffer("counts")[row] += sign * count
            self.get_buffer("sums")[row] += sign * total
        self.get_buffer("moment").add_(sign * moment)
        self._drop_empty()
        self._white = None

    def _drop_empty(self) -> None:
        kept = (self.get_buffer("counts") > 0.5).nonzero()[:, 0].tolist()
        if len(kept) < len(self.keys):
            self.keys = [self.keys[i] for i in kept]
            self.counts = self.get_buffer("counts")[kept].clone()
            self.sums = self.get_buffer("sums")[kept].clone()

    def forget(self, task: int) -> None:
        """Take a task's share out; later tasks move up. Needs `forgettable`."""
        names = self.shares[task]["classes"]
        counts, sums, moment = (self.get_buffer(f"kept_{name}_{task}") for name in _SHARE)
        self.add(self.slot_of[task], names, counts, sums, moment, sign=-1.0)
        self._drop_share(task)
        del self.slot_of[task]

    def _drop_share(self, task: int) -> None:
        """Drop what is kept of a task; later ones move up."""
        for name in _SHARE:
            for later in range(task, len(self.shares)):
                moved = f"kept_{name}_{later + 1}"
                tensor = self.get_buffer(moved) if later + 1 < len(self.shares) else None
                delattr(self, f"kept_{name}_{later}")
                if tensor is not None:
                    self.register_buffer(f"kept_{name}_{later}", tensor)
        del self.shares[task]

    def clear(self) -> None:
        """Know no task any more; the slots stay, for tasks to come."""
        while self.shares:
            self._drop_share(len(self.shares) - 1)
        self.slot_of, self.keys = [], []
        for name in ("counts", "sums"):
            setattr(self, name, self.get_buffer(name)[:0].clone())
        self.get_buffer("moment").zero_()
        self._white = None

    def join(self, other: Policy, tasks: int) -> None:
        """Add the sums of another router with the same slots."""
        assert isinstance(other, DomainRouter)
        for task, slot in enumerate(other.slot_of):
            self.slot_of.append(slot)
            if self.forgettable and other.forgettable:
                share = [other.get_buffer(f"kept_{name}_{task}").clone() for name in _SHARE]
                self.keep(len(self.slot_of) - 1, *share)
                self.shares.append(dict(other.shares[task]))
        for row, (slot, label) in enumerate(other.keys):
            count, total = other.get_buffer("counts")[row], other.get_buffer("sums")[row]
            nothing = torch.zeros_like(self.get_buffer("moment"))
            self.add(slot, [label], count[None], total[None], nothing)
        self.get_buffer("moment").add_(other.get_buffer("moment"))
        self._white = None

    def covariance(self) -> Float[Tensor, "Q Q"]:
        """Return Σ, shrunk."""
        counts, sums = self.get_buffer("counts"), self.get_buffer("sums")
        between = (sums / counts.sqrt().unsqueeze(1)).T @ (sums / counts.sqrt().unsqueeze(1))
        within = (self.get_buffer("moment") - between) / counts.sum()
        scale = within.diagonal().mean().clamp_min(1e-12)
        eye = torch.eye(self.query_size, dtype=within.dtype, device=within.device)
        return (1 - self.shrinkage) * within + self.shrinkage * scale * eye

    def distance(self, query: Float[Tensor, "B Q"]) -> Float[Tensor, "B M"]:
        """Return the squared distance of each query to the nearest class mean of each slot."""
        factor, means = self._whitened()
        white = torch.linalg.solve_triangular(factor, query.to(means).T, upper=False).T
        each = torch.cdist(white, means, compute_mode="donot_use_mm_for_euclid_dist").square()
        result = each.new_full((len(query), len(self)), torch.inf)
        for slot in range(len(self)):
            rows = [i for i, (owner, _) in enumerate(self.keys) if owner == slot]
            if rows:
                result[:, slot] = each[:, rows].amin(dim=1)
        return result.float()

    def _whitened(self) -> tuple[Tensor, Tensor]:
        sums, counts = self.get_buffer("sums"), self.get_buffer("counts")
        if self._white is None or self._white[0].device != sums.device:
            factor = torch.linalg.cholesky(self.covariance())
            means = (sums / counts.unsqueeze(1)).T
            self._white = factor, torch.linalg.solve_triangular(factor, means, upper=False).T
        return self._white

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._white = None

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Choose the slot of the task's domain if it is told, else that of the nearest domain."""
        allowed = self.candidates(available)
        none = torch.zeros((), device=self.owner.device)
        if task is not None or query is None or len(self) == 1:
            slot = len(self) - 1 if task is None else self.slot_of[task]
            index = torch.tensor([[slot]], device=self.owner.device)
            return Selection(index, None, none, fits=self.fits(index))
        distance = self.distance(query).masked_fill(~allowed, torch.inf)
        index = distance.argmin(dim=1, keepdim=True)
        return Selection(index, None, none, -distance.gather(1, index), self.fits(index))

    def layout(self) -> dict[str, Any]:
        """Return which task uses which slot, and which class each mean is of."""
        keys = [list(key) for key in self.keys]
        return {
            **super().layout(),
            "slot_of": self.slot_of,
            "keys": keys,
            "shares": self.shares,
            "bare": list(self.bare),
        }

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the means of `layout`."""
        super().restore(layout)
        self.slot_of = list(layout["slot_of"])
        self.bare = tuple(layout.get("bare", ()))  # absent from older checkpoints
        self.keys = [(slot, label) for slot, label in layout["keys"]]
        sums = self.get_buffer("sums")
        self.counts = self.get_buffer("counts").new_zeros(len(self.keys))
        self.sums = sums.new_zeros(len(self.keys), self.query_size)
        q = self.query_size
        self.shares = [dict(share) for share in layout["shares"]]
        for task, share in enumerate(self.shares):
            n = len(share["classes"])
            self.keep(task, sums.new_zeros(n), sums.new_zeros(n, q), sums.new_zeros(q, q))
