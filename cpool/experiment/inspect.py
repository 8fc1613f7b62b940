"""What a checkpoint holds: slots, keys, norms, usage and provenance, without the backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cpool.checkpoint import MANIFEST, read_file, read_manifest
from cpool.errors import CheckpointError
from cpool.experiment.views import BranchView, CheckpointView, FileView, SlotView

__all__ = ["inspect_checkpoint"]


def inspect_checkpoint(folder: Path | str) -> CheckpointView:
    """Read a checkpoint and check every file of it.

    Args:
        folder: what `Learner.save` wrote, such as runs/x/checkpoints/l2p/seed0.

    Raises:
        CheckpointError: there is none, or a file is missing or altered.
    """
    folder = Path(folder)
    if folder.name == MANIFEST:
        folder = folder.parent
    if not (folder / MANIFEST).is_file():
        raise _none_here(folder)
    manifest = read_manifest(folder)
    state: dict[str, Tensor] = {}
    files = []
    for name, entry in manifest["files"].items():
        state |= read_file(folder / name, entry)
        files.append(FileView(name, entry["part"], entry["bytes"], entry["sha256"]))
    usage = manifest.get("learner", {}).get("usage", {})
    try:
        branches = tuple(
            _branch(name, layout, state, usage.get(name, []))
            for name, layout in manifest["layout"]["branches"].items()
        )
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(
            expected=f"a manifest that describes the tensors in {folder}",
            got=f"{type(error).__name__}: {error}",
            remedy="Restore the checkpoint from a copy, or train anew.",
        ) from error
    return CheckpointView(folder, manifest, branches, tuple(files))


def _none_here(folder: Path) -> CheckpointError:
    below = sorted(path.parent for path in folder.glob(f"**/{MANIFEST}")) if folder.is_dir() else []
    shown = ", ".join(map(str, below[:5])) + (", …" if len(below) > 5 else "")
    return CheckpointError(
        expected=f"a checkpoint with a {MANIFEST} in {folder}",
        got="a folder of several" if below else "no such file",
        remedy=f"Name one of {shown}." if below else "Name what Learner.save or `cpool run` wrote.",
    )


def _branch(
    name: str, layout: Mapping[str, Any], state: Mapping[str, Tensor], usage: Sequence[Any]
) -> BranchView:
    prefix = f"prompter.branches.{name}"
    pool = layout["pool"]
    sizes = pool["blocks"]
    blocks = [state[f"{prefix}.pool.blocks.{i}"].float() for i in range(len(sizes))]
    # Some pools make prompts of what their blocks hold; older checkpoints name no shape.
    shape = tuple(pool.get("shape") or (blocks[0].shape[1:] if blocks else (0, 0, 0)))
    norms: list[float | None] = []
    for block in blocks:
        made = tuple(block.shape[1:]) != shape
        norms += [None] * len(block) if made else block.flatten(1).norm(dim=1).tolist()
    frozen = [f for f, size in zip(pool["frozen"], sizes, strict=True) for _ in range(size)]
    steps = state[f"{prefix}.pool.trained_steps"].tolist()
    enabled = state[f"{prefix}.pool.enabled"].tolist()
    keys = _keys(prefix, state)
    near = _nearest(keys, len(steps))
    slots = tuple(
        SlotView(
            slot["id"],
            slot["name"],
            slot["task"],
            steps[i],
            enabled[i],
            slot["parent"],
            slot["created"],
            frozen[i],
            norms[i],
            None if keys is None else float(keys[i].norm()),
            *near[i],
            slot.get("length"),
        )
        for i, slot in enumerate(pool["slots"])
    )
    counts = tuple(tuple(row) for row in usage)
    sources = tuple(layout.get("sources", ()))
    return BranchView(name, shape, slots, counts, sources)


def _keys(prefix: str, state: Mapping[str, Tensor]) -> Float[Tensor, "M Q"] | None:
    blocks: list[Tensor] = []
    while (key := f"{prefix}.policy.keys.blocks.{len(blocks)}") in state:
        blocks.append(state[key].float())
    if blocks:
        return torch.cat(blocks)
    centroids = state.get(f"{prefix}.policy.centroids")
    return None if centroids is None else centroids.float().mean(dim=1)


def _nearest(
    keys: Float[Tensor, "M Q"] | None, slots: int
) -> list[tuple[int | None, float | None]]:
    """Return the most similar other key of each slot, and its cosine."""
    if keys is None or len(keys) < 2:
        return [(None, None)] * slots
    unit = F.normalize(keys, dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(-torch.inf)
    best = cosine.max(dim=1)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
