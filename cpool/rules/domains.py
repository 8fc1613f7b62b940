"""Domains: decides, on training data alone, whether a task gets a slot and a prompt of its own."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from cpool.errors import StateError
from cpool.heads import Head
from cpool.policies import DomainRouter
from cpool.rule import Rule

__all__ = ["Domains"]

JUDGED = 2000  # held-out rows that a prompt is judged on, at most: leaving one out takes their cube


class Domains(Rule):
    """Give a task the slot and head of an older domain, or open a new domain for it.

    "one": all tasks share the first. "task": each has its own. "auto": classes that are new join
    the first domain, since sums over disjoint classes cannot conflict. For a task whose classes
    were seen before a candidate slot is trained on four fifths of its training rows. It stays
    unless, on the rest, it is worse by more than a standard error of the difference, row by row:

        right by a head of its own, and sent there by the router
            ≥ right by the head of an old domain after adding the task to it − standard error.

    The burden of proof is on sharing: what a shared head does to the older domains cannot be seen
    in rows of the new one, while a domain that is not new is known by its router, which sends half
    of the rows to the old slot. (Asked to be better by an error, slots were refused on streams of
    conflicting intents where a slot a task was six points ahead.)

    With `must_pay`, the prompt of a new slot, of the first one too, is judged as well: over the
    held-out rows the squared error `‖y − ŷ‖²`, each row left out in turn, must be smaller with
    prompted features than with the frozen model's own, by more than two standard errors of the
    difference, each with the λ that is best for it. Otherwise the slot is left bare: its samples
    run without a prompt. Heads are not fitted on the rows that trained the prompt, which it fits
    better than any row of a later task: such heads refused prompts that paid over all tasks, and
    kept some that did not (`benchmarks/prompt_ridge_judges.py`).

    Args:
        mode: which of the three.
        trained: whether a new slot is trained; otherwise it stays as it was drawn.
        must_pay: whether a new prompt is taken away again where it does not pay.
    """

    def __init__(
        self,
        mode: Literal["one", "task", "auto"] = "auto",
        *,
        trained: bool = True,
        must_pay: bool = False,
    ) -> None:
        super().__init__()
        self.mode, self.trained, self.must_pay = mode, trained, must_pay
        self.candidate, self.new = False, False
        self.decisions: list[dict[str, Any]] = []

    @property
    def judges(self) -> bool:
        """With "auto" or `must_pay`: the first task of all, or one whose classes were seen."""
        return self.mode == "auto" or self.must_pay

    @property
    def held_out(self) -> float:
        """A fifth while a slot or its prompt is on trial."""
        return 0.2 if self.candidate or (self.must_pay and self.new) else 0.0

    def before(
        self, model: Any, batches: Iterable[Mapping[str, Tensor]], classes: list[int], task: int
    ) -> None:
        """Say whether a slot is grown, and tell the router and the heads."""
        branch = next(iter(model.prompter))
        empty = not len(branch.pool)
        seen = bool(set(classes) & set(model.classes)) and len(classes) > 1
        self.candidate = self.mode == "auto" and not empty and seen
        new = empty or self.mode == "task" or self.candidate
        self.new = new
        self._use(model, task, len(branch.pool) if new else 0, new)

    def clear(self) -> None:
        """Nothing is kept of a task but what was decided."""
        self.candidate, self.new = False, False

    def join(self, model: Any, other: Rule, tasks: int) -> None:
        """Refuse what would have changed a decision, had it been known.

        Raises:
            StateError: a class that tasks of both have, with "auto".
        """
        parts = model.tasks[:tasks], model.tasks[tasks:]
        first, second = ({c for classes in part for c in classes} for part in parts)
        self._check_shared(first & second, "merge")

    def forget(self, model: Any, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Refuse what would have changed a decision, had it not been known.

        Raises:
            StateError: a class that another task has, with "auto".
        """
        others = {c for number, group in enumerate(tasks) if number != task for c in group}
        self._check_shared(others & {*tasks[task]}, f"forget task {task} of")

    def _check_shared(self, shared: set[int], what: str) -> None:
        if shared and self.mode == "auto":
            raise StateError(
                expected='classes that no other task has, with domains="auto"',
                got=f"{what} tasks that share classes {sorted(shared)}",
                remedy="Whether such a task gets a slot depends on what came before it. Use "
                'domains="one" or "task".',
            )

    def _use(self, model: Any, task: int, slot: int, new: bool) -> None:
        branch = next(iter(model.prompter))
        branch.growing = new
        model.head.training_session = new and self.trained
        if isinstance(branch.policy, DomainRouter):
            branch.policy.assign(task, slot)
            model.head.lasting.current = slot

    def begin(self, model: Any, task: int) -> None:
        """Let a slot that is never trained count as ready, and freeze it."""
        branch = next(iter(model.prompter))
        if not self.trained and branch.growing:
            branch.pool.mark_trained(torch.tensor([[len(branch.pool) - 1]]))
            branch.pool.freeze_all()

    def judge(
        self,
        model: Any,
        trained: Iterable[Mapping[str, Tensor]],
        held: Iterable[Mapping[str, Tensor]],
        task: int,
    ) -> None:
        """Keep the prompt if it pays, then the slot if it does, else join the best old domain."""
        unseen = _Rows(model, held)
        branch = next(iter(model.prompter))
        newest = len(branch.pool) - 1
        if self.must_pay:
            self._try_bare(model, unseen, task)
        if not self.candidate:
            return
        seen = _Rows(model, trained)
        own = _own(model, seen, unseen, newest)
        joined = [_joined(model, seen, unseen, slot) for slot in range(newest)]
        best = max(range(newest), key=lambda slot: float(joined[slot].mean()))
        # Paired: most rows are easy or hard for both, and say nothing about the difference.
        gain = own - joined[best]
        error = float(gain.std(correction=0)) / len(gain) ** 0.5
        pays = float(gain.mean()) >= -error
        means = {"own": float(own.mean()), "joined": float(joined[best].mean())}
        self.decisions.append({"task": task, **means, "error": error, "kept": pays})
        self.candidate = False
        if pays:
            return
        plan = [[{i: 1.0}] for i in range(newest)]
        branch.pool.recombine(plan)
        branch.policy.drop_newest()
        model.head.lasting.drop_newest()
        self._use(model, task, best, new=False)
        model.head.lasting.expert(best).begin_task(list(model.tasks[task]))

    def _try_bare(self, model: Any, held: "_Rows", task: int) -> None:
        """Leave the newest slot bare unless its prompt surely lowers the error of held-out rows."""
        branch = next(iter(model.prompter))
        newest, before = len(branch.pool) - 1, branch.policy.bare
        prompted = _errors(model, held, newest)
        branch.policy.bare = (*before, newest)
        gain = _errors(model, held, newest) - prompted
        # One held-out row, of a task of seven or fewer, has no spread, and is no evidence.
        error = float(gain.std()) / len(gain) ** 0.5 if len(gain) > 1 else None
        pays = error is not None and float(gain.mean()) > 2 * error
        if pays:
            branch.policy.bare = before
        self.decisions.append(
            {"task": task, "gain": float(gain.mean()), "error": error, "prompt": pays}
        )

    def layout(self) -> dict[str, Any]:
        """Return what was decided so far."""
        return {"decisions": self.decisions}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Take over what was decided."""
        self.decisions = [dict(decision) for decision in layout["decisions"]]


class _Rows:
    """Batches with what is read of them more than once: queries, labels, features of each slot."""

    def __init__(self, model: Any, batches: Iterable[Mapping[str, Tensor]]) -> None:
        self.batches = batches  # read anew for each slot: a task may not fit into memory
        labels, queries = [], []
        for batch in batches:
            labels.append(batch["labels"])
            queries.append(model.query(batch))
        self.labels, self.query = torch.cat(labels), torch.cat(queries)
        self.kept: dict[tuple[int, bool], Tensor] = {}

    def features(self, model: Any, slot: int) -> Tensor:
        key = slot, slot in next(iter(model.prompter)).policy.bare
        if key not in self.kept:
            prompts = model.prompter.forced(slot)
            parts = [model.passes.run(b, prompts)[0] for b in self.batches]
            self.kept[key] = torch.cat(parts).float()
        return self.kept[key]


def _answers(head: Head, fit: _Rows, held: _Rows, model: Any, slot: int) -> Tensor:
    """Fit a head on one part, and return its logits of the other."""
    features = fit.features(model, slot)
    head.begin_task(sorted(set(fit.labels.tolist())))
    head.fit(features, fit.labels.to(features.device))
    answers: Tensor = head(held.features(model, slot))
    return answers


def _right(head: Head, fit: _Rows, held: _Rows, model: Any, slot: int) -> Tensor:
    """Return which held-out rows a head answers right that was fitted on the others."""
    answers = _answers(head, fit, held, model, slot)
    names = torch.tensor(head.classes, device=answers.device)
    return names[answers.argmax(dim=1)] == held.labels.to(answers.device)


def _errors(model: Any, held: _Rows, slot: int) -> Tensor:
    """Return the squared error of held-out rows, each under a head fitted on the others."""
    features = held.features(model, slot)
    some = _evenly(len(features), JUDGED)
    head = model.head.lasting.make().to(features.device)
    errors: Tensor = head.left_out(features[some], held.labels[some])
    return errors


def _evenly(size: int, most: int) -> Tensor:
    """Return at most `most` of `size` places, evenly spread: rows may be sorted by class."""
    return torch.linspace(0, size - 1, min(size, most)).round().long()


def _own(model: Any, fit: _Rows, held: _Rows, slot: int) -> Tensor:
    """Return 1 for each row that the router sends to the slot and its own head answers right."""
    router = copy.deepcopy(next(iter(model.prompter)).policy)
    router.end_classes(fit.query, fit.labels, len(router.slot_of) - 1)
    sent = router.distance(held.query).argmin(dim=1) == slot
    made = model.head.lasting.make().to(held.query.device)
    right = _right(made, fit, held, model, slot)
    own: Tensor = (right & sent.to(right.device)).float()
    return own


def _joined(model: Any, fit: _Rows, held: _Rows, slot: int) -> Tensor:
    """Return 1 for each row that the head of an old slot answers right with the task added."""
    head = copy.deepcopy(model.head.lasting.expert(slot))
    return _right(head, fit, held, model, slot).float()
