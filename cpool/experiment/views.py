"""What can be seen in a checkpoint, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BranchView", "CheckpointView", "FileView", "SlotView"]


@dataclass(frozen=True)
class SlotView:
    """One slot: its provenance, and the size of what it holds.

    Attributes:
        id, name, task, steps, enabled, parent, created: as in `cpool.pool.Slot`.
        frozen: its block can no longer train.
        value_norm: L2 norm of its prompt values, all sites together; None where a pool makes them
            of something else that it holds.
        key_norm: L2 norm of its key, None when its policy has no keys.
        nearest: the slot whose key is most similar, None when there is no other.
        cosine: how similar.
        length: its prompt tokens, where they are fewer than the branch's.
    """

    id: int
    name: str
    task: int | None
    steps: int
    enabled: bool
    parent: int | None
    created: str
    frozen: bool
    value_norm: float | None
    key_norm: float | None
    nearest: int | None
    cosine: float | None
    length: int | None = None


@dataclass(frozen=True)
class BranchView:
    """One branch.

    Attributes:
        name: of the branch.
        shape: [S P W] of a slot.
        slots: all of them.
        usage: how often each task used each slot.
        sources: where slots that looked for the nearest task started, see `cpool.branch.Branch`.
    """

    name: str
    shape: tuple[int, ...]
    slots: tuple[SlotView, ...]
    usage: tuple[tuple[int, ...], ...]
    sources: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class FileView:
    """One file, whose SHA-256 was checked."""

    name: str
    part: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint: its manifest, branches and files."""

    folder: Path
    manifest: Mapping[str, Any]
    branches: tuple[BranchView, ...]
    files: tuple[FileView, ...]
