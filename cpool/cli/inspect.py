"""`cpool inspect`: a checkpoint in tables."""

from pathlib import Path

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from cpool.cli.console import print_table
from cpool.experiment.inspect import inspect_checkpoint
from cpool.experiment.views import BranchView, CheckpointView, SlotView

__all__ = ["show_checkpoint"]


def show_checkpoint(folder: Path) -> None:
    """Print what a checkpoint holds.

    Raises:
        CheckpointError: there is none, or it was altered.
    """
    view = inspect_checkpoint(folder)
    for line in _head(view):
        typer.echo(line)
    for branch in view.branches:
        _print("\n" + _title(branch), _slots(branch))
        for record in branch.sources:
            near = ", ".join(f"slot {s['id']} {s['nearness']:.3g}" for s in record["sources"])
            typer.echo(
                f"Slot {record['id']} started from the nearest task (minus distance): {near}"
            )
        if branch.usage:
            heading = "In the last evaluation, each task's choices in %, by slot:"
            _print(f"Branch {branch.name}. {heading}", _usage(branch))
    _print("\nFiles, all as they were written (SHA-256 checked):", _files(view))


def _print(title: str, table: Table) -> None:
    # The title is a line of its own: in the table it would be wrapped to the table's width.
    typer.echo(title)
    print_table(table)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        left = heading in ("name", "state", "file", "SHA-256")
        table.add_column(heading, justify="left" if left else "right")
    return table


def _head(view: CheckpointView) -> list[str]:
    manifest = view.manifest
    method, backbone = manifest["method"] or {}, manifest["backbone"]
    learner, begun = manifest.get("learner", {}), manifest["layout"]["tasks"]
    tasks = learner.get("done") or [str(i) for i in range(len(begun))]
    classes = len({label for task in begun for label in task})
    options = ", ".join(f"{k}={v}" for k, v in method.get("hyper_parameters", {}).items())
    training = ", ".join(f"{k}={v}" for k, v in manifest.get("train", {}).items())
    return [
        f"{view.folder}: written by cpool {manifest['cpool']}",
        f"  method    {method.get('name', 'of your own')}" + (f" ({options})" if options else ""),
        f"  training  seed {learner.get('seed')}; {training}",
        f"  backbone  {backbone['name']} ({backbone.get('family', '')}, "
        f"fingerprint {backbone['fingerprint'][:12]}…), not needed here",
        f"  tasks     {len(tasks)}: {', '.join(tasks)}; {classes} classes",
        *(
            f"  forgotten {record['when']}: classes {', '.join(map(str, record['classes']))}"
            + (f"; slots {', '.join(record['slots'])}" if record["slots"] else "")
            for record in manifest["layout"].get("removed", ())
        ),
    ]


def _title(branch: BranchView) -> str:
    slots, frozen = len(branch.slots), sum(slot.frozen for slot in branch.slots)
    sites, length, width = branch.shape
    own = {length if slot.length is None else slot.length for slot in branch.slots} or {length}
    span = f"{min(own)}" if len(own) == 1 else f"{min(own)} to {max(own)}"
    return (
        f"Branch {branch.name}: {slots} slot{'s' * (slots != 1)}, {frozen} frozen, each of "
        f"{sites} site{'s' * (sites != 1)} × {span} tokens × {width} numbers"
    )


def _slots(branch: BranchView) -> Table:
    columns = ["id", "name", "task", "steps", "state", "parent", "‖value‖", "‖key‖", "nearest key"]
    ragged = any(slot.length is not None for slot in branch.slots)
    table = _table(*columns, *(["tokens"] if ragged else []))
    for slot in branch.slots:
        length = branch.shape[1] if slot.length is None else slot.length
        table.add_row(*map(Text, _cells(slot)), *([str(length)] if ragged else []))
    return table


def _cells(slot: SlotView) -> list[str]:
    state = ("frozen" if slot.frozen else "trains") + ("" if slot.enabled else ", disabled")
    near = "—" if slot.nearest is None else f"{slot.nearest} ({slot.cosine:+.2f})"
    return [
        str(slot.id),
        slot.name,
        "all" if slot.task is None else str(slot.task),
        f"{slot.steps:,}" if slot.steps else "never",
        state,
        "—" if slot.parent is None else str(slot.parent),
        "—" if slot.value_norm is None else f"{slot.value_norm:.3g}",
        "—" if slot.key_norm is None else f"{slot.key_norm:.3g}",
        near,
    ]


def _usage(branch: BranchView) -> Table:
    table = _table("task", *map(str, range(len(branch.slots))))
    for task, counts in enumerate(branch.usage):
        total = sum(counts) or 1
        table.add_row(str(task), *(f"{100 * c / total:.0f}" if c else "·" for c in counts))
    return table


def _files(view: CheckpointView) -> Table:
    table = _table("file", "bytes", "SHA-256")
    for file in view.files:
        table.add_row(file.name, f"{file.bytes:,}", f"{file.sha256[:16]}…")
    return table
