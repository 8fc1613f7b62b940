"""Branch = pool + policy + site; Prompter = the branches of one method."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpool.errors import PoolError, StateError
from cpool.initialisers import Initialiser
from cpool.policies import Policy
from cpool.policies.soft_attention import orthogonality
from cpool.policies.top_k import TopK
from cpool.pool import PromptPool
from cpool.selection import Selection

__all__ = ["Branch", "EmbeddingSite", "PrefixSite", "Prompter", "Prompts", "Site"]


@dataclass(frozen=True)
class EmbeddingSite:
    """Prompt tokens beside the input's embeddings: S = 1, W = D."""

    sites: int = 1


@dataclass(frozen=True)
class PrefixSite:
    """Keys and values put before those of some attention layers: S = 2 per layer, k then v.

    Attributes:
        layers: layer numbers from 0.
        heads: number of key-value heads of the model.
        halves: True when the prompt is cut in two, first half keys, second half values
            (CODA-Prompt); then S = 1 per layer.
    """

    layers: tuple[int, ...]
    heads: int
    halves: bool = False

    @property
    def sites(self) -> int:
        """S, the number of sites that the pool needs."""
        return len(self.layers) * (1 if self.halves else 2)


Site: TypeAlias = EmbeddingSite | PrefixSite


class Prompts(NamedTuple):
    """What a prompter hands to the injection, for one batch.

    Attributes:
        tokens: prompt tokens for the embedding, [B N D], or None.
        layers: layer number → (keys, values), each [B heads N head_dim].
        loss: sum of the policies' losses, a scalar.
        selections: branch name → what was chosen.
    """

    tokens: Float[Tensor, "B N D"] | None
    layers: Mapping[int, tuple[Tensor, Tensor]]
    loss: Float[Tensor, ""]
    selections: Mapping[str, Selection]


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
        penalty: weight of the orthogonality of the prompt values (CODA-Prompt).
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
        penalty: float = 0.0,
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
        self.name, self.site = name, site
        self.pool, self.policy = pool, policy
        self.start, self.per_task = start, per_task
        self.init_next, self.penalty = init_next, penalty
        # A pool that is too small for its policy is refused when it is made, not in training.
        if isinstance(policy, TopK) and policy.k > (reach := self._reach()):
            raise PoolError(
                expected=f"top-k of at most {reach}, the slots to choose from in the first task",
                got=f"top-k of {policy.k}",
                remedy="Choose a smaller top-k or a larger pool.",
            )

    def _reach(self) -> int:
        return len(self.pool) or self.start + self.per_task

    def begin_task(self, task: int) -> None:
        """Freeze what exists if this branch grows, then grow."""
        if self.start and not len(self.pool):
            self._grow(self.start, None)
        if self.per_task:
            self.pool.freeze_all()
            self.policy.freeze_all()
            self._grow(self.per_task, task)
        elif isinstance(self.policy, TopK):
            self.policy.next_task()

    def _grow(self, n: int, task: int | None) -> None:
        later = len(self.pool) and self.init_next is not None
        init = self.init_next(self.pool) if later and self.init_next else None
        parent = len(self.pool) - 1 if later else None
        self.pool.grow(n, init, task=task, parent=parent)
        self.policy.grow(n, task)

    def forward(
        self, query: Float[Tensor, "B Q"] | None, task: int | None, batch: int
    ) -> tuple[Float[Tensor, "B S N W"], Selection]:
        """Choose and read the slots for a batch of `batch` samples."""
        training = self.training and task is not None
        selection = self.policy(query, task, self.pool.available(training=training))
        if training and torch.is_grad_enabled():
            self.pool.mark_trained(selection.index)
        values = self.pool.gather(selection).expand(batch, -1, -1, -1)
        if self.penalty and training:
            used = selection.index[0]  # SoftAttention gives every sample the same slots
            rows = self.pool.values()[used].flatten(2).transpose(0, 1)
            extra = torch.stack([orthogonality(site) for site in rows]).sum()
            selection = selection._replace(loss=selection.loss + self.penalty * extra)
        return values, selection


class Prompter(nn.Module):
    """The branches of one method: from queries to prompts.

    Args:
        branches: at least one; names must differ.
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        super().__init__()
        names = [branch.name for branch in branches]
        if not names or len(set(names)) != len(names):
            raise PoolError(
                expected="at least one branch, with different names",
                got=f"{names}",
                remedy="Name each branch once.",
            )
        self.branches = nn.ModuleDict({branch.name: branch for branch in branches})
        self.started: list[int] = []

    def __iter__(self) -> Iterator[Branch]:
        """Iterate over the branches."""
        for branch in self.branches.values():
            assert isinstance(branch, Branch)
            yield branch

    @property
    def needs_query(self) -> bool:
        """Whether any policy reads the query: if not, the query pass is saved."""
        return any(branch.policy.needs_query for branch in self)

    @property
    def needs_end(self) -> bool:
        """Whether any policy learns from the queries of a finished task."""
        return any(branch.policy.needs_end for branch in self)

    @property
    def room(self) -> int:
        """How many positions the prompts take: tokens at the embedding plus the longest prefix."""
        tokens, layers = 0, Counter[int]()
        for branch in self:
            slots = max(len(branch.pool), branch.start + branch.per_task)
            length = branch.policy.chosen(slots) * branch.pool.length
            if isinstance(branch.site, EmbeddingSite):
                tokens += length
            else:
                layers.update({layer: length for layer in branch.site.layers})
        return tokens + max(layers.values(), default=0)

    def begin_task(self, task: int) -> None:
        """Freeze and grow the branches for a new task.

        Raises:
            StateError: the task was begun before.
        """
        if task in self.started:
            raise StateError(
                expected="a task that was not begun before",
                got=f"task {task} again",
                remedy="Load the checkpoint from before it, or give it a new number.",
            )
        for branch in self:
            branch.begin_task(task)
        self.started.append(task)

    def end_task(self, query: Float[Tensor, "n Q"], task: int) -> None:
        """Let the policies learn from the training queries of a finished task."""
        for branch in self:
            branch.policy.end_task(query, task)

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        *,
        batch: int | None = None,
    ) -> Prompts:
        """Choose, read and sort the prompts of all branches by where they go.

        Args:
            query: query features, or None when no policy needs them.
            task: the task in training, or where the protocol tells it; else None.
            batch: B, needed when there is no query.
        """
        size = batch if query is None else len(query)
        assert size is not None
        tokens: list[Tensor] = []
        layers: dict[int, tuple[Tensor, Tensor]] = {}
        selections: dict[str, Selection] = {}
        for branch in self:
            values, selections[branch.name] = branch(query, task, size)
            if isinstance(branch.site, EmbeddingSite):
                tokens.append(values[:, 0])
                continue
            for layer, pair in split_prefix(values, branch.site).items():
                layers[layer] = _join(layers.get(layer), pair)
        # Losses of policies without one are zeros on the pool's device.
        loss = torch.stack([s.loss.float() for s in selections.values()]).sum()
        return Prompts(torch.cat(tokens, 1) if tokens else None, layers, loss, selections)


def split_prefix(
    values: Float[Tensor, "B S N W"], site: PrefixSite
) -> dict[int, tuple[Tensor, Tensor]]:
    """Cut [B S N W] into keys and values [B heads N head_dim] for each layer."""
    b, _, n, w = values.shape
    split = values.view(b, -1, n, site.heads, w // site.heads).transpose(2, 3)
    if site.halves:
        return {
            layer: (split[:, i, :, : n // 2], split[:, i, :, n // 2 :])
            for i, layer in enumerate(site.layers)
        }
    return {layer: (split[:, 2 * i], split[:, 2 * i + 1]) for i, layer in enumerate(site.layers)}


def _join(
    first: tuple[Tensor, Tensor] | None, second: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Put two prefixes of one layer one after the other."""
    if first is None:
        return second
    return torch.cat([first[0], second[0]], 2), torch.cat([first[1], second[1]], 2)
