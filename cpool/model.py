"""PromptedModel: from a batch to logits, loss and selections; an ordinary `nn.Module`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpool.backbones import Backbone
from cpool.errors import BackboneError, ConfigError, DataError, StateError
from cpool.heads import Head, SessionHead, check_finite
from cpool.inject.prefix import attention_layers
from cpool.output import Output
from cpool.passes import Passes
from cpool.prompter import Prompter, Prompts
from cpool.readout import AnyReadout, resolve_readout
from cpool.rule import Rule

__all__ = ["Output", "PromptedModel"]

_ROWS = ("pixel_values", "input_ids", "query")  # one of them tells how many samples there are


class PromptedModel(nn.Module):
    """A frozen backbone with prompts in front of it and a head behind it.

    `parameters()` holds what trains: neither the backbone, which is kept outside the module tree
    and follows `.to(device)`, nor frozen blocks. `state_dict()` holds all that is learned.

    Args:
        backbone: the frozen model.
        head: from features to logits.
        prompter: the prompts; None for a baseline without any.
        readout: how hidden states become features; see `cpool.readout.read`.
        mask: classes that compete in training: those of the task, or all seen.
        trunk: a trainable copy of the backbone (fine-tuning); then there are no prompts.
        rules: what else enters the loss, or happens when a task begins or ends.
        rates: factors of the learning rate by part: "head", "prompter", "trunk", "rules".
        apart: run one pass a slot and put their features side by side; see `Passes`.
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
        rules: Sequence[Rule] = (),
        rates: Mapping[str, float] | None = None,
        apart: bool = False,
    ) -> None:
        super().__init__()
        # A tuple hides the backbone from the module tree: no optimiser, checkpoint or DDP sees it.
        self._frozen = (backbone,)
        self.head = head
        self.prompter = prompter
        self.trunk = trunk
        self.rules = nn.ModuleList(rules)
        self.readout: AnyReadout = resolve_readout(readout, backbone)
        self.passes = Passes(backbone, prompter, self.readout, apart=apart)
        self.mask, self.rates = mask, dict(rates or {})
        self.method: Any = None
        self.tasks: list[tuple[int, ...]] = []
        _check_layers(backbone, prompter)
        _check_capacity(head, prompter, apart)

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self._frozen[0]

    @property
    def classes(self) -> list[int]:
        """The class of each column of the logits, in the order seen."""
        return self.head.classes

    @property
    def plain(self) -> bool:
        """Whether the head reads the unprompted query itself, so that no other pass is needed."""
        return self.trunk is None and self.prompter is None and self.readout == "query"

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

    @property
    def needs_start(self) -> bool:
        """Whether `begin_task` wants the task's training data."""
        prompter = self.prompter is not None and self.prompter.needs_start
        return prompter or self.head.starts or any(r.needs_start for r in self._rules())

    @property
    def needs_end(self) -> bool:
        """Whether `end_task` needs the task's training data."""
        prompter = self.prompter is not None and self.prompter.needs_end
        return prompter or self.head.fits or any(r.needs_end for r in self._rules())

    def _rules(self) -> Iterator[Rule]:
        for rule in self.rules:
            assert isinstance(rule, Rule)
            yield rule

    @property
    def held_out(self) -> float:
        """The share of the task's training data that a rule keeps from the optimiser."""
        return max((rule.held_out for rule in self._rules()), default=0.0)

    @torch.no_grad()
    def judge(
        self, trained: Iterable[Mapping[str, Tensor]], held: Iterable[Mapping[str, Tensor]]
    ) -> None:
        """Let the rules look at the trained model on data that it saw and on data it did not."""
        self.eval()
        if self.prompter is not None:
            self.prompter.freeze_grown()
        for rule in self._rules():
            if rule.held_out:
                rule.judge(self, trained, held, len(self.tasks) - 1)

    def trains(self, task: int) -> bool:
        """Return whether task number `task` has steps of optimisation."""
        if self.trunk is not None or not self.head.fits:
            return True
        # A head that decides at each task whether it trains has to train in the first one.
        sessions = self.head.sessions if isinstance(self.head, SessionHead) else None
        return self.prompter is not None and task < (1 if sessions is None else sessions)

    def one_pass(
        self, batch: Mapping[str, Tensor], name: str, task: int | None
    ) -> Float[Tensor, "B F"]:
        """Return the features of one pass, by its name in `passes.names`."""
        query = self.query(batch) if self.needs_query else None
        size = len(next(v for k, v in batch.items() if k in _ROWS))
        return self.passes.run(batch, self.passes.choose(query, task, size, name))[0]

    def fixed(self, task: int | None) -> dict[str, str]:
        """Return the passes whose features change no more: name in a batch → what they depend on.

        Args:
            task: the task that the policies are told.
        """
        if self.trunk is not None or self.plain:
            return {}
        named = {name: self.passes.key(name, task) for name in self.passes.names}
        return {name: key for name, key in named.items() if key is not None}

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over what trains now; frozen blocks are left out."""
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if parameter.requires_grad:
                yield name, parameter

    def _apply(self, fn: Any, recurse: bool = True) -> "PromptedModel":
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

    def begin_task(
        self,
        classes: Sequence[int],
        task: int | None = None,
        batches: Iterable[Mapping[str, Tensor]] = (),
    ) -> int:
        """Freeze what is old, grow what is new, and return the number of the task.

        Args:
            classes: the labels of the task; in a domain-incremental stream the same each time.
            task: its number, the next one by default.
            batches: the task's training data with "labels"; read only if `needs_start`, and may
                be read more than once.

        Raises:
            StateError: the task was begun before, or is not the next.
            DataError: no classes, or labels that are not whole numbers.
        """
        number = len(self.tasks) if task is None else task
        if number != len(self.tasks):
            raise StateError(
                expected=f"task {len(self.tasks)}, the next one",
                got=f"task {number}",
                remedy="Tasks are learned once and in order; load a checkpoint to go back.",
            )
        named = _named(classes)
        for rule in self._rules():
            rule.before(self, batches if rule.needs_start else (), named, number)
        if self.prompter is not None:
            self.prompter.begin_task(number)
        self.head.begin_task(named)
        self.tasks.append(tuple(named))
        self._start(batches, number)
        for rule in self._rules():
            rule.begin(self, number)
        self.train()
        return number

    def extend_task(self, classes: Sequence[int]) -> None:
        """Add classes that turn up while a task is learned: no slot grows, nothing is frozen.

        Args:
            classes: labels that occur; those that the task has already change nothing.

        Raises:
            StateError: no task was begun, or a head that takes no new classes within a task.
            DataError: no classes, or labels that are not whole numbers.
        """
        _need_task(bool(self.tasks))
        named = _named(classes)
        head = self.head
        parts = [head.lasting, head.probe] if isinstance(head, SessionHead) else [head]
        for part in parts:
            if part is not None:
                part.extend_task(named)
        self.tasks[-1] = tuple(sorted({*self.tasks[-1], *named}))

    @torch.no_grad()
    def _start(self, batches: Iterable[Mapping[str, Tensor]], task: int) -> None:
        """Let keys and heads start from the task's training data, where they do."""
        self.eval()
        keys = self.prompter is not None and self.prompter.needs_start
        idle = isinstance(self.head, SessionHead) and self.head.probe is None
        if not keys and (idle or not self.head.starts):
            return
        queries, features, labels = [], [], []
        for batch in batches:
            queries.append(self.query(batch) if keys else torch.empty(0))
            features.append(torch.empty(0) if idle else self._unprompted(batch))
            labels.append(self._on_device(batch["labels"]))
        if not labels:
            raise DataError(
                expected="the task's training data, from which keys or heads start",
                got="nothing",
                remedy="Call begin_task(classes, batches=loader).",
            )
        if self.prompter is not None and keys:
            self.prompter.start_task(torch.cat(queries), task)
        if self.head.starts and not idle:
            self.head.start(torch.cat(features).float(), torch.cat(labels))

    def _unprompted(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "B F"]:
        return self.query(batch) if self.plain else self.passes.run(batch, None)[0]

    @torch.no_grad()
    def end_task(self, batches: Iterable[Mapping[str, Tensor]] = ()) -> None:
        """Finish the task: fit centroids and closed-form heads on its training data.

        Args:
            batches: the task's training data with "labels"; read only if `needs_end`.
        """
        task = len(self.tasks) - 1
        _need_task(task >= 0)
        self.eval()
        if self.prompter is not None:
            self.prompter.freeze_grown()
        if not self.needs_end:
            for rule in self._rules():
                with torch.enable_grad():
                    rule.end(self, (), None, None, task)
            return
        kept = list(batches)
        if not kept:
            raise DataError(
                expected="the task's training data", got="nothing", remedy="Pass the loader."
            )
        labels = torch.cat([self._on_device(batch["labels"]) for batch in kept])
        if self.prompter is not None and self.prompter.needs_end:
            queries = torch.cat([self.query(b) for b in kept])
            self.prompter.end_task(queries, task, labels)
        features = None
        if self.head.fits or any(rule.needs_features for rule in self._rules()):
            parts = [self._features(batch, task)[0].float() for batch in kept]
            features = torch.cat(parts)
        if self.head.fits and features is not None:
            self.head.fit(features, labels)
        for rule in self._rules():
            with torch.enable_grad():
                rule.end(self, kept, features, labels, task)

    def forward(self, batch: Mapping[str, Tensor], task: int | None = None) -> Output:
        """Answer a batch.

        Args:
            batch: model inputs as `backbone.prepare` makes them; "labels" [B] adds a loss;
                "query" [B Q] saves the query pass.
            task: in training, the task being learned; at test None, unless the protocol tells
                the task (task-incremental): then only its classes compete.

        Raises:
            StateError: before `begin_task`, or with a task that was not begun.
            DataError: labels of classes that no task announced.
        """
        output = self.answer(batch, task)
        if output.loss is None or not self.training or not self.rules:
            return output
        losses = dict(output.losses)
        for rule in self._rules():
            losses.update(rule.loss(self, batch, output, task))
        return replace(output, loss=torch.stack(list(losses.values())).sum(), losses=losses)

    def answer(
        self,
        batch: Mapping[str, Tensor],
        task: int | None = None,
        *,
        mask: Literal["task", "seen"] | None = None,
    ) -> Output:
        """Answer a batch as `forward` does, but without the rules.

        Args:
            batch: as for `forward`.
            task: as for `forward`.
            mask: classes that compete in the cross-entropy; the model's own choice by default.
        """
        self.check_task(task)
        features, prompts = self._features(batch, task)
        logits = self._logits(features, prompts)
        allowed = self._allowed(task)
        losses: dict[str, Tensor] = {}
        loss = None
        if "labels" in batch:
            target = self.head.columns(_labels(self._on_device(batch["labels"])))
            competing = logits.float()
            if allowed is not None and (not self.training or (mask or self.mask) == "task"):
                if not bool(allowed[target].all()):
                    raise DataError(
                        expected=f"labels of task {task}, {list(self.tasks[task or 0])}",
                        got="labels of other tasks",
                        remedy="Train with mask='seen' to mix tasks in a batch.",
                    )
                competing = competing.masked_fill(~allowed, -torch.inf)
            losses["cross_entropy"] = F.cross_entropy(competing, target)
            if prompts is not None:
                losses["selection"] = prompts.loss
            loss = torch.stack(list(losses.values())).sum()
        if allowed is not None and not self.training:
            logits = logits.masked_fill(~allowed, -torch.inf)
        selections = {} if prompts is None else prompts.selections
        return Output(logits, loss, losses, selections, features)

    def _logits(
        self, features: Float[Tensor, "B F"], prompts: Prompts | None
    ) -> Float[Tensor, "B C"]:
        if not self.head.routed or prompts is None:
            return self.head(features)  # type: ignore[no-any-return]
        selection = next(iter(prompts.selections.values()))
        expert = selection.index[:, 0].expand(len(features))
        return self.head(features, expert)  # type: ignore[no-any-return]

    def check_task(self, task: int | None) -> None:
        """Refuse a task that cannot be told now.

        Raises:
            StateError: it was not begun, or is not the one being learned, in training.
        """
        _need_task(bool(self.tasks))
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
            return self.backbone.query(batch)
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
        self, batch: Mapping[str, Tensor], task: int | None
    ) -> tuple[Float[Tensor, "B F"], Prompts | None]:
        if self.trunk is not None:
            return self.trunk.features(batch), None
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
            features, prompts = self.passes.run(batch, prompts)
            parts.append(features)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), prompts

    def _allowed(self, task: int | None) -> Bool[Tensor, " C"] | None:
        if task is None:
            return None
        mine = set(self.tasks[task])
        allowed = [c in mine for c in self.classes]
        return torch.tensor(allowed, device=self.backbone.device)

    def _on_device(self, tensor: Int[Tensor, "..."] | Float[Tensor, "..."]) -> Tensor:
        return tensor.to(self.backbone.device, non_blocking=True)

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this model again (JSON)."""
        branches = {}
        for branch in self.prompter or ():
            branches[branch.name] = {
                "pool": branch.pool.layout(),
                "policy": branch.policy.layout(),
                "evictions": branch.evictions,
            }
        return {
            "tasks": [list(classes) for classes in self.tasks],
            "head": self.head.layout(),
            "branches": branches,
            "rules": [rule.layout() for rule in self._rules()],
        }

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the tensors of a `layout`, ready for `load_state_dict`."""
        self.tasks = [tuple(classes) for classes in layout["tasks"]]
        self.head.restore(layout["head"])
        if self.prompter is not None:
            self.prompter.started = list(range(len(self.tasks)))
            for branch in self.prompter:
                branch.pool.restore(layout["branches"][branch.name]["pool"])
                branch.policy.restore(layout["branches"][branch.name]["policy"])
                branch.evictions = list(layout["branches"][branch.name].get("evictions", ()))
        for rule, part in zip(self._rules(), layout.get("rules", []), strict=True):
            rule.restore(part)
        self.eval()


def _named(classes: Sequence[int]) -> list[int]:
    """Return the classes of a task in order, each once."""
    if not classes or any(isinstance(c, float) for c in classes):
        raise DataError(
            expected="at least one class label, whole numbers",
            got=repr(list(classes)),
            remedy="Pass the labels that occur in the task.",
        )
    return sorted({int(c) for c in classes})


def _labels(labels: Tensor) -> Tensor:
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            expected='batch["labels"] of whole numbers, [B]',
            got=f"{labels.dtype} {tuple(labels.shape)}",
            remedy="Pass the class of each sample as an int64 tensor.",
        )
    return labels


def _need_task(begun: bool) -> None:
    if not begun:
        raise StateError(
            expected="a model that has begun at least one task",
            got="a new model",
            remedy="Call fit_task of the learner, or begin_task of the model, first.",
        )


def _check_layers(backbone: Backbone, prompter: Prompter | None) -> None:
    """Refuse prefixes on layers that the model lacks, when the model is built."""
    for branch in prompter or ():
        layers = getattr(branch.site, "layers", ())
        wrong = [layer for layer in layers if not 0 <= layer < backbone.num_layers]
        if wrong:
            raise BackboneError(
                expected=f"layers from 0 to {backbone.num_layers - 1} of {backbone.name}",
                got=f"layers {wrong} in branch {branch.name!r}",
                remedy="Choose layers that the model has.",
            )
        if layers:
            attention_layers(backbone)  # refuses models whose attention cannot be reached


def _check_capacity(head: Head, prompter: Prompter | None, apart: bool) -> None:
    """Refuse eviction where the head knows slots by their place, when the model is built."""
    full = [branch.name for branch in prompter or () if branch.capacity is not None]
    if full and (head.routed or apart):
        kind = "one pass a slot" if apart else "a head that is routed by slot"
        raise ConfigError(
            expected="a pool that keeps all of its slots, since the head knows each by its place",
            got=f"a capacity in branch {full[0]!r} together with {kind}",
            remedy="Leave the capacity out, or use a head of all classes such as LinearHead.",
        )
