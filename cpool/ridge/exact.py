"""Merging ridge heads that were fitted apart, and forgetting a task, both exactly."""

from typing import TYPE_CHECKING

import torch

from cpool.errors import StateError

if TYPE_CHECKING:
    from cpool.ridge.head import RidgeHead

__all__ = ["forget_task", "merge_heads"]


def merge_heads(first: "RidgeHead", second: "RidgeHead") -> None:
    """Add what `second` has learned to `first`: the same as learning the tasks in sequence.

    G and Q are sums over samples, so the sums of two heads are those of one that saw both
    (McDonnell et al., 2023; exact up to the order of additions in float64).

    Raises:
        StateError: the heads differ in their random features or in λ.
    """
    _check_alike(first, second)
    for group in second.groups:
        first.begin_task(group) if group else first.groups.append([])
    place = torch.tensor(
        [first.classes.index(c) for c in second.classes], device=first.get_buffer("cross").device
    )
    if len(second.get_buffer("rows")):
        columns, start = place[second.get_buffer("row_columns")], 0
        for size in second.sizes:
            part = slice(start, start + size)
            first.add(second.get_buffer("rows")[part], columns[part])
            start += size
    elif len(second.get_buffer("gram")):
        if not len(first.get_buffer("gram")):
            first.drop_rows()
        first.get_buffer("gram").add_(second.get_buffer("gram"))
        first.get_buffer("cross").index_add_(1, place, second.get_buffer("cross"))
        if first.sample is not None and second.sample is not None:
            first.sample.join(second.sample)
    if first.kept is not None and second.kept is not None:
        first.kept.join(second.kept)
    if first.ridge == "auto" and second.classes:
        first.get_buffer("chosen").copy_(second.get_buffer("chosen"))  # that of the newest task
    first.solve()


def forget_task(head: "RidgeHead", task: int) -> None:
    """Take a task out, as if it had never been seen: its sums and the classes only it had.

    Args:
        head: made with `forgettable=True`.
        task: its number among the tasks that the head has learned.

    Raises:
        StateError: nothing is kept of the task, or λ was chosen on it.
    """
    if head.kept is None or not 0 <= task < len(head.kept):
        raise StateError(
            expected="a task whose share of the statistics is kept",
            got=f"task {task} of a head made with forgettable={head.kept is not None}",
            remedy="Build the method with forgettable=True before it learns.",
        )
    if head.ridge == "auto":
        raise StateError(
            expected="a ridge that depends on no order, so that what is left equals never having "
            "seen the task",
            got='ridge="auto", chosen on training data of single tasks',
            remedy='Build the method with a number as ridge, or with "left_out".',
        )
    if len(head.kept) == 1:
        _empty(head)
        return
    others = {c for t in range(len(head.kept)) if t != task for c in head.kept.classes(t)}
    gone = [c for c in head.kept.classes(task) if c not in others]
    _subtract(head, task)
    groups = _groups(head, task)
    order = [c for group in groups for c in group if c not in gone]
    keep = [head.classes.index(c) for c in order]
    head.cross = head.get_buffer("cross")[:, keep].clone()
    moved = {old: new for new, old in enumerate(keep)}
    columns = head.get_buffer("row_columns")
    head.row_columns = torch.tensor([moved[int(c)] for c in columns], dtype=torch.int64).to(columns)
    head.classes[:] = order
    head.groups[:] = groups
    head.kept.remove(task)
    head.solve()


def _empty(head: "RidgeHead") -> None:
    """Make a head that has learned nothing of one whose only task goes."""
    assert head.kept is not None
    head.kept.remove(0)
    if head.sample is not None:
        head.sample.clear()
    head.classes.clear()
    head.groups.clear()
    head._products, head.sizes = None, []
    for name in ("rows", "row_columns", "gram"):
        setattr(head, name, head.get_buffer(name)[:0].clone())
    for name in ("cross", "weight"):
        setattr(head, name, head.get_buffer(name)[:, :0].clone())


def _groups(head: "RidgeHead", task: int) -> list[list[int]]:
    """Return which classes each remaining task was the first to bring."""
    assert head.kept is not None
    seen: set[int] = set()
    groups = []
    for number in range(len(head.kept)):
        if number == task:
            continue
        mine = set(head.kept.classes(number)) - seen
        groups.append(sorted(mine))  # as a task announces its classes
        seen |= mine
    return groups


def _subtract(head: "RidgeHead", task: int) -> None:
    kept = head.kept
    assert kept is not None
    cross = head.get_buffer("cross")
    for c, column in kept.cross(task).items():
        cross[:, head.classes.index(c)] -= column
    if len(head.get_buffer("gram")):
        head.get_buffer("gram").sub_(kept.gram(task))
        if head.sample is not None:
            head.sample.clear()
            for other in (t for t in range(len(kept)) if t != task):
                head.sample.add(*kept.sample(other), of=kept.count(other))
        return
    first = sum(kept.count(t) for t in range(task))
    rows, columns = head.get_buffer("rows"), head.get_buffer("row_columns")
    chosen = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    chosen[first : first + kept.count(task)] = False
    head.rows, head.row_columns = rows[chosen].clone(), columns[chosen].clone()
    head._products = None
    del head.sizes[task]


def _check_alike(first: "RidgeHead", second: "RidgeHead") -> None:
    def described(head: "RidgeHead") -> dict[str, object]:
        expand = head.expand
        return {
            "seed": int(expand.get_buffer("seed")),
            "kind": expand.kind,
            "gamma": expand.gamma,
            "sizes": (expand.feature_size, expand.width),
            "ridge": head.ridge,
            "relative": head.relative,
            "forgettable": head.kept is not None,
        }

    one, two = described(first), described(second)
    differ = [key for key in one if one[key] != two[key]]
    if differ:
        raise StateError(
            expected="two heads of the same random features and ridge",
            got=", ".join(f"{key} {one[key]} and {two[key]}" for key in differ),
            remedy="Give both methods the same seed and hyper-parameters.",
        )
