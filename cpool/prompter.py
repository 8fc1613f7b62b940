"""Prompter: the branches of one method, from queries to prompts."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cpool.branch import Branch, EmbeddingSite, PrefixSite, Site
from cpool.errors import PoolError, StateError
from cpool.ragged import beside, packed
from cpool.selection import Selection

__all__ = ["Branch", "EmbeddingSite", "Live", "PrefixSite", "Prompter", "Prompts", "Site"]


class Live(NamedTuple):
    """A prefix that is made when its layer runs.

    Attributes:
        length: N, tokens of the prefix.
        make: from the pooled hidden state that enters the layer [B D] to keys and values, each
            [B heads N head_dim].
    """

    length: int
    make: Callable[[Tensor], tuple[Tensor, Tensor]]


class Prompts(NamedTuple):
    """What a prompter hands to the injection, for one batch.

    Attributes:
        tokens: prompt tokens for the embedding, [B N D], or None.
        layers: layer number → (keys, values), each [B heads N head_dim].
        loss: sum of the policies' losses, a scalar.
        selections: branch name → what was chosen; that of a live branch after its layer ran.
        live: layer number → prefix that is made in the pass.
        real: False for tokens that are padding, since rows have prompts of different length,
            [B N]; None: there are none.
        spans: layer number → the same of its prefix, for layers where there is padding.
        after_start: they stand behind the start token of a text that has one.
    """

    tokens: Float[Tensor, "B N D"] | None
    layers: Mapping[int, tuple[Tensor, Tensor]]
    loss: Float[Tensor, ""]
    selections: Mapping[str, Selection]
    live: Mapping[int, Live] = MappingProxyType({})
    real: Bool[Tensor, "B N"] | None = None
    spans: Mapping[int, Bool[Tensor, "B _"]] = MappingProxyType({})
    after_start: bool = False

    def finished(self) -> "Prompts":
        """Return the prompts with the losses of live branches, which the pass has made, too."""
        if not self.live:
            return self
        return self._replace(loss=_total(self.selections))


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
        if len({branch.site.after_start for branch in branches}) > 1:
            raise PoolError(
                expected="branches that all stand behind a text's start token, or all in front",
                got=", ".join(f"{b.name}: after_start={b.site.after_start}" for b in branches),
                remedy="Give all sites the same after_start.",
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
        return any(branch.policy.needs_query and not branch.live for branch in self)

    @property
    def needs_end(self) -> bool:
        """Whether any policy learns from the queries of a finished task."""
        return any(branch.policy.needs_end or branch.policy.needs_labels for branch in self)

    @property
    def needs_boundary(self) -> bool:
        """Whether any policy reads the queries of a task when it begins or ends."""
        return self.needs_start or self.needs_end

    @property
    def room(self) -> int:
        """How many positions the prompts take: tokens at the embedding plus the longest prefix."""
        layers = Counter[int]()
        for branch in self:
            if isinstance(branch.site, PrefixSite):
                layers.update(dict.fromkeys(branch.site.layers, _most(branch)))
        return self.token_room + max(layers.values(), default=0)

    @property
    def token_room(self) -> int:
        """How many positions the prompt tokens at the embedding take."""
        return sum(_most(branch) for branch in self if isinstance(branch.site, EmbeddingSite))

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

    def freeze_grown(self) -> None:
        """Freeze the slots of a finished task, where tasks have slots of their own."""
        for branch in self:
            if branch.per_task:
                branch.pool.freeze_all()
                branch.policy.freeze_all()

    @property
    def needs_start(self) -> bool:
        """Whether any branch wants the queries of a task before it is trained."""
        return any(branch.needs_start for branch in self)

    def start_task(self, query: Float[Tensor, "n Q"], task: int) -> None:
        """Let the branches look at the training queries of a task that has begun."""
        for branch in self:
            if branch.needs_start:
                branch.start_task(query, task)

    def end_task(
        self, query: Float[Tensor, "n Q"], task: int, labels: Int[Tensor, " n"] | None = None
    ) -> None:
        """Let the policies learn from the training queries of a finished task."""
        for branch in self:
            if branch.policy.needs_labels:
                assert labels is not None
                branch.policy.end_classes(query, labels, task)
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
        read: list[tuple[Site, Tensor, Tensor | None]] = []
        live: dict[int, Live] = {}
        selections: dict[str, Selection] = {}
        for branch in self:
            if isinstance(branch.site, PrefixSite) and branch.site.live:
                live[branch.site.layers[0]] = self._live(branch, branch.site, task, selections)
                continue
            values, selections[branch.name] = branch(query, task, size)
            read.append((branch.site, values, selections[branch.name].real))
        return sorted_prompts(read, _total(selections), selections, live)

    def forced(self, slot: int) -> Prompts:
        """Return one slot of the only branch, for every sample of a batch.

        Raises:
            PoolError: there are several branches, or no such slot.
        """
        branch, *others = self
        if others:
            raise PoolError(
                expected="one branch, whose slots are run apart",
                got=f"{1 + len(others)}",
                remedy="Use one branch, or let the policies choose.",
            )
        branch.pool.check_slot(slot)
        index = torch.tensor([[slot]], device=branch.pool.trained_steps.device)
        none = torch.zeros((), device=index.device)
        selection = Selection(index, None, none, fits=branch.policy.fits(index))
        values, selection = branch.read(selection)
        read = [(branch.site, values, selection.real)]
        return sorted_prompts(read, selection.loss, {branch.name: selection})

    def _live(
        self, branch: Branch, site: PrefixSite, task: int | None, selections: dict[str, Selection]
    ) -> Live:
        def make(query: Float[Tensor, "B Q"]) -> tuple[Tensor, Tensor]:
            values, selections[branch.name] = branch(query, task, len(query))
            return split_prefix(values, site)[site.layers[0]]

        length = branch.policy.chosen(len(branch.pool)) * branch.pool.longest
        return Live(length // 2 if site.halves else length, make)


def _most(branch: Branch) -> int:
    """Return how many tokens a branch may put in front of a sample."""
    slots = max(len(branch.pool), branch.start + branch.per_task)
    return branch.policy.chosen(slots) * branch.pool.longest


def _total(selections: Mapping[str, Selection]) -> Float[Tensor, ""]:
    """Return the sum of the losses; those of policies without one are zeros on their device."""
    losses = [selection.loss.float() for selection in selections.values()]
    return torch.stack(losses).sum() if losses else torch.zeros(())


def sorted_prompts(
    read: Sequence[tuple[Site, Float[Tensor, "B _ _ _"], Bool[Tensor, "B _"] | None]],
    loss: Float[Tensor, ""],
    selections: Mapping[str, Selection],
    live: Mapping[int, Live] = MappingProxyType({}),
) -> Prompts:
    """Sort what was read of the branches by where it goes, in their order.

    Args:
        read: the site of a branch, its values, and where they are padding.
        loss: as in `Prompts`.
        selections: as in `Prompts`.
        live: as in `Prompts`.
    """
    tokens, real = None, None
    if own := [(values, mask) for site, values, mask in read if isinstance(site, EmbeddingSite)]:
        whole, real = beside(own, dim=2)
        if real is not None and len(own) > 1:
            whole, real = packed(whole, real)  # padding would stand between two prompts
        tokens = whole[:, 0]
    pairs: dict[int, list[tuple[Tensor, Tensor, Tensor | None]]] = {}
    for site, values, mask in read:
        if isinstance(site, PrefixSite):
            for layer, (key, value) in split_prefix(values, site).items():
                pairs.setdefault(layer, []).append((key, value, mask))
    layers, spans = {}, {}
    for layer, parts in pairs.items():
        keys, span = beside([(key, mask) for key, _, mask in parts], dim=2)
        values, _ = beside([(value, None) for _, value, _ in parts], dim=2)
        if span is not None and len(parts) > 1:
            both, span = packed(torch.cat([keys, values], 1), span)
            keys, values = both.chunk(2, dim=1)
        layers[layer] = keys, values
        if span is not None:
            spans[layer] = span
    after = any(site.after_start for site, _, _ in read)
    return Prompts(tokens, layers, loss, selections, live, real, spans, after)


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
