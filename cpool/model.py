"""PromptedModel: a network that learns task after task; an ordinary `nn.Module`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpool.backbones import Backbone
from cpool.errors import DataError, StateError
from cpool.heads import Head, SessionHead
from cpool.model_checks import class_labels, need_task
from cpool.network import PromptedNetwork
from cpool.output import Output
from cpool.prompter import Prompter
from cpool.readout import AnyReadout
from cpool.rule import Rule

__all__ = ["Output", "PromptedModel"]


class PromptedModel(PromptedNetwork):
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
        super().__init__(
            backbone, head, prompter, readout=readout, mask=mask, trunk=trunk, apart=apart
        )
        self.rules = nn.ModuleList(rules)
        self.rates = dict(rates or {})
        self.method: Any = None
        self.removed: list[dict[str, Any]] = []  # what was forgotten, and when (JSON values)

    @property
    def needs_start(self) -> bool:
        """Whether `begin_task` wants the task's training data."""
        prompter = self.prompter is not None and self.prompter.needs_start
        return prompter or self.head.starts or any(r.needs_start for r in self.each_rule())

    @property
    def needs_end(self) -> bool:
        """Whether `end_task` needs the task's training data."""
        prompter = self.prompter is not None and self.prompter.needs_end
        return prompter or self.head.fits or any(r.needs_end for r in self.each_rule())

    def each_rule(self) -> Iterator[Rule]:
        """Iterate over the rules, in order."""
        for rule in self.rules:
            assert isinstance(rule, Rule)
            yield rule

    @property
    def judges(self) -> bool:
        """Whether a rule may keep rows of a task from the optimiser, to judge the result on."""
        return any(rule.judges for rule in self.each_rule())

    @property
    def held_out(self) -> float:
        """The share of the task's training data that a rule keeps from the optimiser.

        It is decided when the task begins; before that it is what it was for the last one.
        """
        return max((rule.held_out for rule in self.each_rule()), default=0.0)

    @torch.no_grad()
    def judge(
        self, trained: Iterable[Mapping[str, Tensor]], held: Iterable[Mapping[str, Tensor]]
    ) -> None:
        """Let the rules look at the trained model on data that it saw and on data it did not."""
        self.eval()
        if self.prompter is not None:
            self.prompter.freeze_grown()
        for rule in self.each_rule():
            if rule.held_out:
                rule.judge(self, trained, held, len(self.tasks) - 1)

    def trains(self, task: int) -> bool:
        """Return whether task number `task` has steps of optimisation."""
        if self.head.ready:
            return False
        if self.trunk is not None or not self.head.fits:
            return True
        # A head that decides at each task whether it trains has to train in the first one.
        head = self.head if isinstance(self.head, SessionHead) else None
        if self.prompter is None or (head is not None and head.over):
            return False
        return task < (1 if head is None or head.sessions is None else head.sessions)

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
        labels = class_labels(classes)
        self.head.check_classes(labels)
        for rule in self.each_rule():
            rule.before(self, batches if rule.needs_start else (), labels, number)
        if self.prompter is not None:
            self.prompter.begin_task(number)
        self.head.begin_task(labels)
        self.tasks.append(tuple(labels))
        self._start(batches, number)
        for rule in self.each_rule():
            rule.begin(self, number)
        self.train()
        return number

    def name_classes(self, names: Sequence[str]) -> None:
        """Say what class number i is called, for a head that scores words; first names stay."""
        words = getattr(self.head, "words", None)
        if words is not None:
            words.name(names)

    @property
    def needs_raw(self) -> bool:
        """Whether a rule reads the task's inputs as people wrote them: call `study`."""
        return any(rule.needs_raw for rule in self.each_rule())

    def study(self, x: Any, y: npt.NDArray[np.int64]) -> None:
        """Let the rules look at the raw training inputs of the task that has begun."""
        for rule in self.each_rule():
            rule.study(self, x, y, len(self.tasks) - 1)

    def extend_task(self, classes: Sequence[int]) -> None:
        """Add classes that turn up while a task is learned: no slot grows, nothing is frozen.

        Args:
            classes: labels that occur; those that the task has already change nothing.

        Raises:
            StateError: no task was begun, or a head that takes no new classes within a task.
            DataError: no classes, or labels that are not whole numbers.
        """
        need_task(bool(self.tasks))
        labels = class_labels(classes)
        self.head.check_classes(labels)
        head = self.head
        parts = [head.lasting, head.probe] if isinstance(head, SessionHead) else [head]
        for part in parts:
            if part is not None:
                part.extend_task(labels)
        self.tasks[-1] = tuple(sorted({*self.tasks[-1], *labels}))

    @torch.no_grad()
    def _start(self, batches: Iterable[Mapping[str, Tensor]], task: int) -> None:
        """Let keys and heads start from the task's training data, where they do."""
        self.eval()
        keys = self.prompter is not None and self.prompter.needs_start
        idle = isinstance(self.head, SessionHead) and self.head.probe is None
        reads = self.head.starts and not idle
        if not keys and not reads:
            return
        queries, features, labels = [], [], []
        for batch in batches:
            queries.append(self.query(batch) if keys else torch.empty(0))
            features.append(self._unprompted(batch) if reads else torch.empty(0))
            labels.append(self._on_device(batch["labels"]))
        if not labels:
            raise DataError(
                expected="the task's training data, from which keys or heads start",
                got="nothing",
                remedy="Call begin_task(classes, batches=loader).",
            )
        if self.prompter is not None and keys:
            self.prompter.start_task(torch.cat(queries), task)
        if reads:
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
        need_task(task >= 0)
        self.eval()
        if self.prompter is not None:
            self.prompter.freeze_grown()
        if not self.needs_end:
            for rule in self.each_rule():
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
        if self.head.fits or any(rule.needs_features for rule in self.each_rule()):
            parts = [self._features(batch, task)[0].float() for batch in kept]
            features = torch.cat(parts)
        if self.head.fits and features is not None:
            self.head.fit(features, labels)
        for rule in self.each_rule():
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
        output = self.answer(batch, task, whole=any(r.needs_logits for r in self.each_rule()))
        if output.loss is None or not self.training or not self.rules:
            return output
        losses = dict(output.losses)
        for rule in self.each_rule():
            losses.update(rule.loss(self, batch, output, task))
        return replace(output, loss=torch.stack(list(losses.values())).sum(), losses=losses)

    def layout(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to make this model again (JSON)."""
        branches = {}
        for branch in self.prompter or ():
            branches[branch.name] = {
                "pool": branch.pool.layout(),
                "policy": branch.policy.layout(),
                "evictions": branch.evictions,
                "sources": branch.sources,
            }
        return {
            "tasks": [list(classes) for classes in self.tasks],
            "head": self.head.layout(),
            "branches": branches,
            "rules": [rule.layout() for rule in self.each_rule()],
            **({"removed": self.removed} if self.removed else {}),
        }

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the tensors of a `layout`, ready for `load_state_dict`."""
        self.tasks = [tuple(classes) for classes in layout["tasks"]]
        self.head.restore(layout["head"])
        if self.prompter is not None:
            self.prompter.started = list(range(len(self.tasks)))
            for branch in self.prompter:
                part = layout["branches"][branch.name]
                branch.pool.restore(part["pool"])
                branch.policy.restore(part["policy"])
                branch.evictions = list(part.get("evictions", ()))
                branch.sources = list(part.get("sources", ()))
        for rule, part in zip(self.each_rule(), layout.get("rules", []), strict=True):
            rule.restore(part)
        self.removed = [dict(record) for record in layout.get("removed", ())]
        self.eval()
