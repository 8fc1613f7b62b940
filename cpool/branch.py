"""Branch: one pool, the policy that reads it, and the site where its prompts go."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpool.errors import PoolError
from cpool.initialisers import Initialiser
from cpool.policies import DomainRouter, GaussianRouter, Policy, evict
from cpool.policies.eviction import How
from cpool.policies.soft_attention import orthogonality
from cpool.policies.top_k import TopK
from cpool.pool import PromptPool
from cpool.ragged import packed
from cpool.selection import Selection
from cpool.transfer import best_source

__all__ = ["Branch", "EmbeddingSite", "PrefixSite", "Site"]


@dataclass(frozen=True)
class EmbeddingSite:
    """Prompt tokens beside the input's embeddings: S = 1, W = D.

    Attributes:
        after_start: stand behind the start token of a decoder's text, where its tokenizer puts one
            there, as the words of a hard prompt do; else in front of it, as in PEFT.
    """

    sites: int = 1
    after_start: bool = False


@dataclass(frozen=True)
class PrefixSite:
    """Keys and values put before those of some attention layers: S = 2 per layer, k then v.

    Attributes:
        layers: layer numbers from 0.
        heads: number of key-value heads of the model.
        halves: True when the prompt is cut in two, first half keys, second half values
            (CODA-Prompt); then S = 1 per layer.
        live: True when the query is the hidden state that enters the layer, pooled, instead of
            the feature of an unprompted pass (OS-Prompt, ConvPrompt); one layer a branch then.
        after_start: as of an `EmbeddingSite`.
    """

    layers: tuple[int, ...]
    heads: int
    halves: bool = False
    live: bool = False
    after_start: bool = False

    @property
    def sites(self) -> int:
        """S, the number of sites that the pool needs."""
        return len(self.layers) * (1 if self.halves else 2)


Site: TypeAlias = EmbeddingSite | PrefixSite


class Branch(nn.Module):
    """One pool, the policy that reads it, and where its prompts go.

    Args:
        name: unique in its prompter; names its files and plots.
        pool: the values.
        policy: the keys.
        site: where the prompts go.
        start: slots made before the first task, shared by all tasks and never frozen; a branch has
            either these or slots of each task.
        per_task: slots made at the start of each task; all older ones are frozen then.
        init_next: makes the initialiser of a later task's slots from the pool, such as
            `lambda pool: from_slot(pool, -1)`; the pool's own one by default.
        nearest: a later task's slot becomes a copy of the one whose task has the nearest queries,
            see `cpool.transfer.best_source`; the policy has to be a GaussianRouter.
        penalty: weight of the orthogonality of the prompt values (CODA-Prompt).
        sessions: how many tasks add slots; all by default, 1 for the first task only.
        capacity: most slots at any time. When a task has added its slots, as many older ones are
            evicted as do not fit; its own never are.
        evict: what happens to those, see `cpool.policies.evict`.

    Attributes:
        growing: set to False before a task begins, to let it add no slots.
        evictions: a record of each step of eviction, with the task that made room (JSON values).
        sources: with `nearest`, for each later task the ids of the older slots and their nearness,
            the one it was copied from first (JSON values).
    """

    def __init__(
        self,
        name: str,
        pool: PromptPool,
        policy: Policy,
        site: Site,
        *,
        start: int = 0,
        per_task: int = 0,
        init_next: Callable[[PromptPool], Initialiser] | None = None,
        nearest: bool = False,
        penalty: float = 0.0,
        sessions: int | None = None,
        capacity: int | None = None,
        evict: How = "usage",
    ) -> None:
        super().__init__()
        if pool.sites != site.sites:
            raise PoolError(
                expected=f"a pool of {site.sites} sites for {site}",
                got=f"{pool.sites}",
                remedy="Make the pool with PromptPool(sites=site.sites, …).",
            )
        if (start >= 1) == (per_task >= 1):
            # Keys and prompts freeze together, so shared slots get a branch of their own.
            raise PoolError(
                expected="either start or per_task of at least 1",
                got=f"start={start}, per_task={per_task}"
                + (": a pool of 0 slots" if start + per_task < 1 else ""),
                remedy="Say how many slots there are at the start, or are added each task; for "
                "both, make two branches.",
            )
        if isinstance(site, PrefixSite) and site.live and len(site.layers) != 1:
            raise PoolError(
                expected="one layer a live branch",
                got=f"layers {site.layers}",
                remedy="Make a branch for each layer.",
            )
        self.name, self.site = name, site
        self.pool, self.policy = pool, policy
        self.start, self.per_task = start, per_task
        self.init_next, self.penalty = init_next, penalty
        self.nearest = nearest
        self.sessions, self.growing = sessions, True
        self.capacity, self.evict = capacity, evict
        self.evictions: list[dict[str, Any]] = []
        self.sources: list[dict[str, Any]] = []
        if nearest and not isinstance(policy, GaussianRouter):
            raise PoolError(
                expected="a GaussianRouter, whose tasks a new one is compared with",
                got=type(policy).__name__,
                remedy="Use that policy, or init_next.",
            )
        if nearest and not pool.copies:
            raise pool.cannot_copy()
        if capacity is not None:
            self._check_capacity(capacity)
        # A pool that is too small for its policy is refused when it is made, not in training.
        if isinstance(policy, TopK) and policy.k > (reach := self._reach()):
            raise PoolError(
                expected=f"top-k of at most {reach}, the slots to choose from in the first task",
                got=f"top-k of {policy.k}",
                remedy="Choose a smaller top-k or a larger pool.",
            )

    @property
    def live(self) -> bool:
        """Whether the query comes from inside the prompted pass."""
        return isinstance(self.site, PrefixSite) and self.site.live

    def _reach(self) -> int:
        return len(self.pool) or self.start + self.per_task

    def _check_capacity(self, capacity: int) -> None:
        """Refuse what would only fail when the pool is full."""
        # What is combined has to stay somewhere beside the slots of the task.
        fewest = self.per_task + (self.evict != "usage")
        if not self.per_task or capacity < fewest:
            raise PoolError(
                expected=f"a capacity of at least {fewest}, for a branch whose tasks add slots",
                got=f"capacity={capacity}, per_task={self.per_task}, evict={self.evict!r}",
                remedy="Slots of the task itself are never evicted: allow for more, or leave "
                "capacity out.",
            )
        if self.evict != "usage" and not self.pool.combines:
            raise self.pool.cannot_combine()
        self.policy.check_recombine()

    def begin_task(self, task: int) -> None:
        """Freeze what exists if this branch grows, then grow, then make room."""
        if self.start and not len(self.pool):
            self._grow(self.start, None)
        if self.per_task:
            self.pool.freeze_all()
            self.policy.freeze_all()
            # By what is there, not by the task's number: one that was branched off counts anew.
            full = self.sessions is not None and len(self.pool) >= self.sessions * self.per_task
            if self.growing and not full:
                self._grow(self.per_task, task)
                self._make_room(task)
        elif isinstance(self.policy, TopK):
            self.policy.next_task()

    def _grow(self, n: int, task: int | None) -> None:
        later = len(self.pool) and self.init_next is not None
        init = self.init_next(self.pool) if later and self.init_next else None
        parent = len(self.pool) - 1 if later else None
        self.pool.grow(n, init, task=task, parent=parent)
        self.policy.grow(n, task)

    @property
    def lasting(self) -> bool:
        """Whether slots of the first tasks are those of all later ones."""
        return self.sessions is not None or isinstance(self.policy, DomainRouter)

    def _check_apart(self) -> None:
        """Refuse slots that tasks share, or that start from or make room among those of others."""
        why = ""
        if self.start:
            why = "whose slots all tasks train"
        elif self.init_next is not None or self.nearest:
            why = "whose slots start from those of earlier tasks"
        elif self.capacity is not None:
            why = "in which tasks take each other's room"
        elif self.penalty:
            why = "whose slots are kept apart from those of earlier tasks"
        if why:
            raise PoolError(
                expected="prompts that each task trains for itself",
                got=f"the branch {self.name!r}, {why}",
                remedy="Learn the tasks in sequence instead, with those that shall be known.",
            )

    def clear(self) -> None:
        """Know no task any more; slots that are for all tasks stay."""
        if self.lasting:
            if isinstance(self.policy, DomainRouter):
                self.policy.clear()
            return
        self._check_apart()
        self.pool.clear()
        self.policy.clear()

    def join(self, other: "Branch", tasks: int) -> None:
        """Take over what another branch has learned, as tasks that come after one's own.

        Args:
            other: built alike.
            tasks: how many tasks come before those of `other`.

        Raises:
            PoolError: slots that tasks share, or other slots where they are for all tasks.
        """
        if not self.lasting:
            self._check_apart()
            self.pool.join(other.pool, tasks)
            self.policy.join(other.policy, tasks)
            return
        mine, others = (b.pool.values() if len(b.pool) else None for b in (self, other))
        same = (
            mine is not None
            and others is not None
            and mine.shape == others.shape
            and bool(torch.equal(mine, others.to(mine)))
            and self.pool.lengths == other.pool.lengths
            and self.policy.bare == other.policy.bare
        )
        if not same:
            raise PoolError(
                expected="the same prompts, since those of the first tasks are those of all",
                got=f"other prompts in the branch {self.name!r}",
                remedy="Let both start from one model: branch_off(model).",
            )
        if isinstance(self.policy, DomainRouter):
            self.policy.join(other.policy, tasks)

    def forget(self, task: int) -> list[str]:
        """Take the slots of a task out, and return their names.

        Raises:
            PoolError: slots that tasks share.
        """
        if self.lasting:
            if isinstance(self.policy, DomainRouter):
                self.policy.forget(task)
            return []
        self._check_apart()
        gone = self.pool.forget(task)
        self.policy.forget(task)
        return gone

    @property
    def needs_start(self) -> bool:
        """Whether the queries of a task are wanted before it is trained."""
        return self.nearest or self.policy.needs_start

    def start_task(self, query: Float[Tensor, "n Q"], task: int) -> None:
        """Look at the training queries of a task that has begun."""
        if self.policy.needs_start:
            self.policy.start_task(query, task)
        own = (self.policy.owner == task).nonzero()[:, 0].tolist()
        if not self.nearest or not own:
            return
        assert isinstance(self.policy, GaussianRouter)
        free = self.pool.available(training=False)
        if ranked := best_source(self.policy, query, len(self.pool), free):
            self.pool.start_from(own[0], ranked[0].slot)
            ids = [slot.id for slot in self.pool.slots]
            found = [{"id": ids[slot], "nearness": near} for slot, near in ranked]
            self.sources.append({"task": task, "id": ids[own[0]], "sources": found})

    def _make_room(self, task: int) -> None:
        if self.capacity is None:
            return
        for step in evict(self.pool, self.policy, self.capacity, self.evict):
            record = {**asdict(step), "gone": list(step.gone), "heirs": list(step.heirs)}
            self.evictions.append({"task": task, **record})

    def read(self, selection: Selection) -> tuple[Float[Tensor, "B S N W"], Selection]:
        """Read the chosen slots; the selection says where tokens are padding, if some are.

        Raises:
            PoolError: slots of different length where prompts are halved or made inside the pass.
        """
        values, real = self.pool.gather(selection), self.pool.real(selection.index)
        if real is None or selection.weight is not None:
            return values, selection
        whole = isinstance(self.site, PrefixSite) and (self.site.halves or self.site.live)
        if whole and len(set(self.pool.lengths)) > 1:
            raise PoolError(
                expected="slots of one length, for prompts that are halved or made inside the pass",
                got=f"lengths {sorted(set(self.pool.lengths))} in branch {self.name!r}",
                remedy="Use PrefixSite(layers, heads), or slots of one length.",
            )
        own = real.flatten(1)
        if values.stride(0) == 0:  # all rows have the same slots
            own = own[:1]
        values, mask = packed(values, own.expand(len(values), -1))
        return values, selection._replace(real=mask)

    def forward(
        self, query: Float[Tensor, "B Q"] | None, task: int | None, batch: int
    ) -> tuple[Float[Tensor, "B S N W"], Selection]:
        """Choose and read the slots for a batch of `batch` samples."""
        training = self.training and task is not None
        selection = self.policy(query, task, self.pool.available(training=training))
        if training and torch.is_grad_enabled():
            self.pool.mark_trained(selection.index)
        values, selection = self.read(selection)
        values = values.expand(batch, -1, -1, -1)
        if self.penalty and training:
            used = selection.index[0]  # SoftAttention gives every sample the same slots
            rows = self.pool.values()[used]
            if (real := self.pool.real(used)) is not None:
                rows = rows * real[:, None, :, None]  # what is never read is not trained either
            rows = rows.flatten(2).transpose(0, 1)
            extra = torch.stack([orthogonality(site) for site in rows]).sum()
            selection = selection._replace(loss=selection.loss + self.penalty * extra)
        return values, selection
