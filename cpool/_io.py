"""Atomic files: a reader sees the old content or the new one, never a half."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpool.errors import CheckpointError

__all__ = ["read_json", "sha256_of_bytes", "sha256_of_tensors", "write_bytes", "write_json"]


# Only setting the umask tells it; once at import, before any thread could notice.
_UMASK = os.umask(0)
os.umask(_UMASK)
# A list of numbers and nulls. A string has no line break of its own, so none looks like it.
_NUMBERS = re.compile(r"\[\n((?:\s*(?:null|[-+.\deE]+),?\n)+)\s*\]")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` through a temporary file in the same folder and one rename.

    Raises:
        CheckpointError: the folder cannot be written or the disk is full; `path` is as it was.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part"
        )
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; results are for whoever the umask allows.
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise CheckpointError(
            expected=f"to write {path}",
            got=f"{type(error).__name__}: {error.strerror or error}",
            remedy="Free some space or choose a folder that can be written; nothing was changed.",
        ) from error


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused since JSON has none.

    A list of numbers is one line, so that a matrix reads, and changes, row by row.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            expected=f"a readable JSON file {path}",
            got=f"{type(error).__name__}: {error}",
            remedy="Check the path; a damaged file must be restored from a copy or made again.",
        ) from error


def sha256_of_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
