"""Passes: from a batch to the features that the head reads, prompted, in one pass or one a slot.

A pass whose prompts no longer train gives the same features for ever, so it has a key, by which
the learner keeps its features: a frozen prompt costs one pass a sample, not one an evaluation.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.backbones import Around, Backbone
from cpool.by_kind import by_kind, rows_of, several_kinds
from cpool.errors import StateError
from cpool.inject import encode
from cpool.language import Surround
from cpool.policies import Policy
from cpool.pool import PromptPool
from cpool.processes import Processes
from cpool.prompter import Prompter, Prompts
from cpool.readout import (
    AnyReadout,
    LabelReadout,
    LayersReadout,
    read,
    readout_size,
    reads_final,
    scored,
)

__all__ = ["Passes"]


class Passes:
    """The prompted passes of one model.

    Args:
        backbone: the frozen model.
        prompter: the prompts; None for unprompted features.
        readout: how hidden states become features.
        apart: run one pass for each slot of the only branch and put their features side by side
            (EASE), instead of one pass with the slots that the policy chooses.

    Attributes:
        processes: that share each pass.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompter: Prompter | None,
        readout: AnyReadout,
        *,
        apart: bool = False,
    ) -> None:
        self.backbone, self.prompter = backbone, prompter
        self.readout, self.apart = readout, apart
        self.surround: Surround | None = None
        self.processes = Processes()

    @property
    def around(self) -> Around:
        """The words before and after each text, or what gives them to each."""
        return ("", "") if self.surround is None else self.surround.around()

    @property
    def size(self) -> int:
        """F, the size of the features of one pass."""
        return readout_size(self.readout, self.backbone)

    @property
    def room(self) -> int:
        """How many positions after the text the readout takes; a T5's labels have its decoder."""
        if not isinstance(self.readout, LabelReadout) or self.backbone.kind == "seq2seq":
            return 0
        return self.readout.words.trie.longest

    @property
    def slots(self) -> list[int]:
        """The slots that have a pass of their own; none where there is one pass for all."""
        if not self.apart or self.prompter is None:
            return []
        return list(range(len(next(iter(self.prompter)).pool)))

    @property
    def names(self) -> list[str]:
        """The passes, by the name of their features in a batch."""
        return [f"features.{slot}" for slot in self.slots] or ["features"]

    def key(self, name: str, task: int | None, more: str = "") -> str | None:
        """Return what the features of a pass depend on, or None while something in it trains.

        Args:
            name: of the pass.
            task: the task that the policies are told.
            more: what else they depend on.
        """
        parts: dict[str, Tensor] = {}
        if self.prompter is not None:
            slot = name.partition(".")[2]
            if slot:
                pool, block = self._owner(int(slot))
                # Some pools make values of more than the block, which all slots share.
                shared = (p for n, p in pool.named_parameters() if not n.startswith("blocks."))
                if block.requires_grad or any(p.requires_grad for p in shared):
                    return None
                parts = {"values": pool.read(torch.tensor(int(slot), device=block.device))}
            elif any(p.requires_grad for p in self.prompter.parameters()):
                return None
            elif all(len(b.pool) == 1 and not b.policy.needs_query for b in self.prompter):
                # Nothing to choose: what the policies learn meanwhile does not matter.
                parts = {b.name: b.pool.values() for b in self.prompter}
                name = f"{name} {[b.policy.bare for b in self.prompter]}"
            else:
                parts = self.prompter.state_dict()
                name = f"{name} {task} {[_options(b.policy) for b in self.prompter]}"
            more += self._lengths(slot)
        digest = hashlib.sha256(f"{name} {self.readout} {self.surround}{more}".encode())
        for part, tensor in sorted(parts.items()):
            digest.update(part.encode())
            flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(flat.numpy().tobytes())
        return digest.hexdigest()[:32]

    def _lengths(self, slot: str) -> str:
        """Say how long slots are that are shorter than their pool, which values do not."""
        assert self.prompter is not None
        pools = [branch.pool for branch in self.prompter if branch.pool.ragged]
        if slot:
            return "".join(f" {pool.length_of(int(slot))}" for pool in pools)
        return "".join(f" {pool.lengths}" for pool in pools)

    def _owner(self, slot: int) -> tuple[PromptPool, Tensor]:
        assert self.prompter is not None
        pool, first = next(iter(self.prompter)).pool, 0
        for block in pool.blocks:
            if slot < first + len(block):
                return pool, block
            first += len(block)
        raise StateError(
            expected=f"a slot below {first}", got=str(slot), remedy="Grow the pool first."
        )

    def choose(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None,
        size: int,
        name: str = "features",
    ) -> Prompts | None:
        """Return the prompts of a pass for a batch of `size` samples."""
        if self.prompter is None:
            return None
        slot = name.partition(".")[2]
        if not slot:
            return self.prompter(query, task, batch=size)  # type: ignore[no-any-return]
        return self.prompter.forced(int(slot))

    def run(
        self,
        batch: Mapping[str, Tensor],
        prompts: Prompts | None,
        only: Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "B F"], Prompts | None]:
        """Run the model once with these prompts, and return the features and what was chosen.

        Samples that no slot fits run in a pass of their own, without any prompt (`by_kind`). Where
        several processes share the pass, each runs its rows, and all get the features of all;
        prompts that are made in the pass are chosen by all rows, so that there every process runs
        the whole.

        Args:
            batch: B samples.
            prompts: theirs.
            only: the classes that compete, where labels are scored by words (`scored`).
        """
        size = _size(batch)
        if self.processes.count == 1 or size is None or (prompts is not None and prompts.live):
            return self._some(batch, prompts, only)

        def some(rows: Mapping[str, Tensor], own: Prompts | None) -> Tensor:
            return self._some(rows, own, only)[0]

        return self._shared(batch, prompts, size, some), prompts

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let this process run whole passes, for gradients that it takes by itself."""
        group, self.processes = self.processes, Processes()
        try:
            yield
        finally:
            self.processes = group

    def unprompted(self, batch: Mapping[str, Tensor], run: Callable[..., Tensor]) -> Tensor:
        """Share a pass without prompts likewise: the query's, or one of a model that trains.

        Args:
            batch: B samples.
            run: from a batch to rows, one a sample.
        """
        size = _size(batch)
        if self.processes.count == 1 or size is None:
            return run(batch)
        return self._shared(batch, None, size, lambda rows, own: run(rows))

    def _shared(
        self,
        batch: Mapping[str, Tensor],
        prompts: Prompts | None,
        size: int,
        run: Callable[[Mapping[str, Tensor], Prompts | None], Tensor],
    ) -> Tensor:
        """Run this process's rows, and return those of all."""
        share = self.processes.share(size)
        empty = share.start == share.stop
        # A process without a row runs one, so that it takes part; nobody asks for its features.
        rows = slice(0, 1) if empty else share
        mask = torch.zeros(size, dtype=torch.bool)
        mask[rows] = True
        own = {key: value[rows] for key, value in batch.items() if len(value) == size}
        made = run(own, None if prompts is None else rows_of(prompts, mask))
        return self.processes.gather(made[:0] if empty else made, size)

    def _some(
        self,
        batch: Mapping[str, Tensor],
        prompts: Prompts | None,
        only: Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "B F"], Prompts | None]:
        def some(rows: Mapping[str, Tensor], own: Prompts | None) -> Tensor:
            return self._run(rows, own, only)[0]

        if prompts is None or not several_kinds(self.backbone, prompts):
            return self._run(batch, prompts, only)
        return by_kind(self.backbone, batch, prompts, some), prompts

    def _run(
        self,
        batch: Mapping[str, Tensor],
        prompts: Prompts | None,
        only: Sequence[int] | None,
    ) -> tuple[Float[Tensor, "B F"], Prompts | None]:
        deep = isinstance(self.readout, LayersReadout) or (
            self.readout == "query" and not reads_final(self.backbone)
        )
        with torch.no_grad() if prompts is None else nullcontext():
            features = scored(self.readout, self.backbone, batch, prompts, only)
            if features is None:
                encoded = encode(self.backbone, batch, prompts, all_layers=deep)
                features = read(self.readout, self.backbone, encoded)
        return features, None if prompts is None else prompts.finished()


def _size(batch: Mapping[str, Tensor]) -> int | None:
    """Return how many samples there are; None where a batch has no inputs."""
    return next((len(batch[key]) for key in ("pixel_values", "input_ids") if key in batch), None)


def _options(policy: Policy) -> list[tuple[str, object]]:
    """Return what a policy reads beside its tensors, such as a threshold."""
    plain = (bool, int, float, str, tuple, list, type(None))
    return sorted((k, v) for k, v in vars(policy).items() if isinstance(v, plain) and k[0] != "_")
