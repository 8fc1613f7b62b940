"""PromptedNetwork: from a batch to features, logits and loss; what a model computes."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cpool.backbones import Backbone
from cpool.by_kind import by_kind
from cpool.errors import ConfigError, DataError, StateError
from cpool.heads import Head, LabelHead, anchored, check_finite
from cpool.language import generate, padding
from cpool.model_checks import check_capacity, check_layers, checked_labels, need_task
from cpool.output import Output
from cpool.passes import Passes
from cpool.prompter import Prompter, Prompts
from cpool.readout import AnyReadout, CompletionReadout, LabelReadout, resolve_readout, scored
from cpool.settings import TrainSettings

__all__ = ["PromptedNetwork"]

_ROWS = ("pixel_values", "input_ids", "query")  # one of them tells how many samples there are


class PromptedNetwork(nn.Module):
    """A frozen backbone, prompts in front of it and a head behind it, without rules or phases.

    `PromptedModel` is what to use; its arguments are explained there.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        prompter: Prompter | None = None,
        *,
        readout: AnyReadout = "query",
        mask: Literal["task", "seen"] = "task",
        trunk: Backbone | None = None,
        apart: bool = False,
    ) -> None:
        super().__init__()
        # A tuple hides the backbone from the module tree: no optimiser, checkpoint or DDP sees it.
        self._frozen = (backbone,)
        self.head = head
        self.prompter = prompter
        self.trunk = trunk
        self.readout: AnyReadout = resolve_readout(readout, backbone)
        self.passes = Passes(backbone, prompter, self.readout, apart=apart)
        self.mask, self.anchor = mask, 0.0
        self.tasks: list[tuple[int, ...]] = []
        words = isinstance(self.readout, LabelReadout | CompletionReadout)
        check_layers(backbone, prompter, words)
        check_capacity(head, prompter, apart)

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self._frozen[0]

    @property
    def classes(self) -> list[int]:
        """The class of each column of the logits, in the order seen."""
        return self.head.classes

    def compete(self, train: TrainSettings) -> None:
        """Let compete in training what the settings say: classes, and an anchor.

        Raises:
            ConfigError: an anchor for a head whose logits do not compare with 0.
        """
        if train.anchor and not self.head.anchors:
            raise ConfigError(
                expected="train.anchor of 0 where answers are scored by their words",
                got=f"{train.anchor:g}, with a {type(self.head).__name__}",
                remedy="Leave train.anchor out, or choose a method with a classifier.",
            )
        self.mask, self.anchor = train.mask, train.anchor

    @property
    def plain(self) -> bool:
        """Whether the head reads the unprompted query itself, so that no other pass is needed."""
        return self.trunk is None and self.prompter is None and self.readout == "query"

    def prepare(
        self, inputs: Any, completions: Sequence[str] | None = None, *, room: int = 0
    ) -> dict[str, Tensor]:
        """Turn raw images or texts into a batch for this model, with room for its prompts.

        Args:
            inputs: as for `Backbone.prepare`.
            completions: what shall follow each text, for a model that learns that.
            room: positions to be left free after each text as well, for words to be generated.
        """
        limit = self.max_tokens(room)
        batch = self.backbone.prepare(inputs, limit, self.passes.around, completions)
        if self.needs_query:
            # Read from the whole text by itself, as the learner does: a query is always the same.
            with torch.no_grad():
                batch["query"] = self.backbone.query(self.backbone.prepare(inputs))
        return batch

    def max_tokens(self, room: int = 0) -> int | None:
        """Return the longest text, with room for what takes positions of the model beside it.

        Args:
            room: positions for words to be generated; an encoder–decoder has others for them.

        Raises:
            ConfigError: prompts that leave no room.
        """
        backbone, prompter = self.backbone, self.prompter
        taken = self.passes.room
        if prompter is not None:  # prefixes of an encoder–decoder take no place beside its text
            taken += prompter.token_room if backbone.kind == "seq2seq" else prompter.room
        taken += room if backbone.kind == "causal" else 0
        if backbone.max_tokens is None or not taken:
            return None
        if backbone.site == "hidden" and backbone.kind != "causal":
            return None
        left = backbone.max_tokens - taken
        if left < 1:
            raise ConfigError(
                expected=f"prompts shorter than the {backbone.max_tokens} positions of the model",
                got=f"{taken} tokens of prompts, and labels or new words",
                remedy="Choose fewer or shorter prompts, or fewer new words (max_new_tokens).",
            )
        return left

    @property
    def needs_query(self) -> bool:
        """Whether `forward` reads `batch["query"]` (and computes it when it is not there)."""
        if self.trunk is not None:
            return False
        return self.plain or (self.prompter is not None and self.prompter.needs_query)

    @property
    def needs_inputs(self) -> bool:
        """Whether `forward` needs the inputs themselves when the query is there."""
        return not self.plain

    def one_pass(
        self, batch: Mapping[str, Tensor], name: str, task: int | None
    ) -> Float[Tensor, "B F"]:
        """Return the features of one pass, by its name in `passes.names`."""
        query = self.query(batch) if self.needs_query else None
        size = len(next(v for k, v in batch.items() if k in _ROWS))
        prompts = self.passes.choose(query, task, size, name)
        return self.passes.run(batch, prompts, self._answered(prompts, size))[0]

    def fixed(self, task: int | None) -> dict[str, str]:
        """Return the passes whose features change no more: name in a batch → what they depend on.

        Args:
            task: the task that the policies are told.
        """
        if self.trunk is not None or self.plain:
            return {}
        # Which labels a slot answers for says which were scored under it.
        owned = f"{self.head.owned}" if isinstance(self.head, LabelHead) else ""
        named = {name: self.passes.key(name, task, owned) for name in self.passes.names}
        return {name: key for name, key in named.items() if key is not None}

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over what trains now; frozen blocks are left out."""
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if parameter.requires_grad:
                yield name, parameter

    def _apply(self, fn: Any, recurse: bool = True) -> "PromptedNetwork":
        # The backbone is shared: it follows to a device, and keeps its own precision. So do
        # float64 statistics, which another precision would spoil for ever.
        device = fn(torch.empty(0, device=self.backbone.device)).device
        if device != self.backbone.device:
            self.backbone.to(device)

        def keep(tensor: Tensor) -> Tensor:
            result: Tensor = tensor.to(device) if tensor.dtype == torch.float64 else fn(tensor)
            return result

        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]
        return self

    def generate(
        self, batch: Mapping[str, Tensor], task: int | None = None, **options: Any
    ) -> Int[Tensor, "B N"]:
        """Return the ids of tokens that a language model adds, each row under its own prompts.

        Args:
            batch: as `prepare` makes it.
            task: as for `forward`, at test.
            **options: of the model's `generate`, see `cpool.language.generate`.

        Raises:
            BackboneError: a backbone that is no language model.
        """
        training = self.training
        self.eval()
        try:
            self.check_task(task)
            if self.trunk is not None:
                return generate(self.trunk, batch, None, **options)
            with torch.no_grad():
                query = self.query(batch) if self.needs_query else None
                prompts = self.passes.choose(query, task, len(batch["input_ids"]))
            return by_kind(
                self.backbone,
                batch,
                prompts,
                lambda rows, own: generate(self.backbone, rows, own, **options),
                pad=padding(self.backbone, options),
            )
        finally:
            self.train(training)

    def answer(
        self,
        batch: Mapping[str, Tensor],
        task: int | None = None,
        *,
        mask: Literal["task", "seen"] | None = None,
        whole: bool = True,
    ) -> Output:
        """Answer a batch as `forward` does, but without the rules.

        Args:
            batch: as for `forward`.
            task: as for `forward`.
            mask: classes that compete in the cross-entropy; the model's own choice by default.
            whole: in training, give logits also to classes that do not compete. Where labels are
                scored by words, False saves their tokens, and their logits are −inf.
        """
        self.check_task(task)
        allowed = self._allowed(task)
        alone = allowed is not None and (not self.training or (mask or self.mask) == "task")
        words = isinstance(self.readout, LabelReadout)  # other logits cost nothing
        spared = words and (not self.training or (not whole and "labels" in batch))
        only = self.tasks[task] if task is not None and alone and spared else None
        features, prompts = self._features(batch, task, only)
        if self.training and self.trunk is None and features.requires_grad:
            self.backbone.need_gradient()
        logits = self._logits(features, prompts)
        losses: dict[str, Tensor] = {}
        loss = None
        if "labels" in batch:
            target = self.head.columns(checked_labels(self._on_device(batch["labels"])))
            competing = logits.float()
            if allowed is not None and alone:
                if not bool(allowed[target].all()):
                    raise DataError(
                        expected=f"labels of task {task}, {list(self.tasks[task or 0])}",
                        got="labels of other tasks",
                        remedy="Train with mask='seen' to mix tasks in a batch.",
                    )
                competing = competing.masked_fill(~allowed, -torch.inf)
            if self.training:
                competing = anchored(competing, self.anchor)
            losses["cross_entropy"] = self.head.loss(competing, target, features)
            if prompts is not None:
                losses["selection"] = prompts.loss
            loss = torch.stack(list(losses.values())).sum()
        if allowed is not None and (only is not None or not self.training):
            logits = logits.masked_fill(~allowed, -torch.inf)
        selections = {} if prompts is None else prompts.selections
        return Output(logits, loss, losses, selections, features)

    def _logits(
        self, features: Float[Tensor, "B F"], prompts: Prompts | None
    ) -> Float[Tensor, "B C"]:
        if not self.head.routed or prompts is None:
            return self.head(features)  # type: ignore[no-any-return]
        return self.head(features, _expert(prompts, len(features)))  # type: ignore[no-any-return]

    def _answered(self, prompts: Prompts | None, size: int) -> list[int] | None:
        """Return the classes that the head can answer under these prompts; None for all."""
        if not self.head.routed or prompts is None or prompts.live:
            return None  # prompts that are made in the pass are not chosen yet
        return self.head.answered(_expert(prompts, size))

    def check_task(self, task: int | None) -> None:
        """Refuse a task that cannot be told now.

        Raises:
            StateError: it was not begun, or is not the one being learned, in training.
        """
        need_task(bool(self.tasks))
        if task is not None and not 0 <= task < len(self.tasks):
            raise StateError(
                expected=f"a task from 0 to {len(self.tasks) - 1}, those begun so far, or None",
                got=f"task={task}",
                remedy="Call begin_task or fit_task for it first.",
            )
        if self.training and task is not None and task != len(self.tasks) - 1:
            raise StateError(
                expected=f"task {len(self.tasks) - 1}, the one being learned",
                got=f"task={task} in training mode",
                remedy="Older prompts are frozen. Call model.eval() to predict with them.",
            )

    def query(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "B Q"]:
        """Return the query features of a batch: those in it, checked, or computed.

        Raises:
            DataError: `batch["query"]` of a wrong shape, or not finite.
        """
        if "query" not in batch:
            return self.passes.unprompted(batch, self.backbone.query)
        query = self._on_device(batch["query"])
        if query.ndim != 2 or query.shape[1] != self.backbone.query_size:
            raise DataError(
                expected=f'batch["query"] of shape [B {self.backbone.query_size}]',
                got=f"{tuple(query.shape)}",
                remedy="Compute it with backbone.query(batch) of the same backbone.",
            )
        check_finite(query)
        return query

    def _features(
        self, batch: Mapping[str, Tensor], task: int | None, only: Sequence[int] | None = None
    ) -> tuple[Float[Tensor, "B F"], Prompts | None]:
        if self.trunk is not None:
            run = partial(self._trunk_features, only=only)
            return self.passes.unprompted(batch, run), None
        query = self.query(batch) if self.needs_query else None
        if self.plain:
            assert query is not None
            return query, None
        names = self.passes.names
        if self.training and self.passes.apart:
            names = ["features"]  # a task trains its own slot alone
        size = len(next(v for k, v in batch.items() if k in _ROWS or k in names))
        parts: list[Tensor] = []
        prompts = None
        for name in names:
            prompts = self.passes.choose(query, task, size, name)
            if name in batch:
                parts.append(self._on_device(batch[name]))
                continue
            worth = self._answered(prompts, size) if only is None else only
            features, prompts = self.passes.run(batch, prompts, worth)
            parts.append(features)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), prompts

    def _trunk_features(
        self, batch: Mapping[str, Tensor], only: Sequence[int] | None = None
    ) -> Float[Tensor, "B F"]:
        assert self.trunk is not None
        words = scored(self.readout, self.trunk, batch, None, only)
        return self.trunk.features(batch) if words is None else words

    def _allowed(self, task: int | None) -> Bool[Tensor, " C"] | None:
        if task is None:
            return None
        mine = set(self.tasks[task])
        allowed = [c in mine for c in self.classes]
        return torch.tensor(allowed, device=self.backbone.device)

    def _on_device(self, tensor: Int[Tensor, "..."] | Float[Tensor, "..."]) -> Tensor:
        return tensor.to(self.backbone.device, non_blocking=True)


def _expert(prompts: Prompts, size: int) -> Int[Tensor, " B"]:
    """Return the slot that answers each sample: the first of the first branch."""
    selection = next(iter(prompts.selections.values()))
    return selection.index[:, 0].expand(size)
