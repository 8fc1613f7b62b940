"""Which code made a number: the version alone stays the same while the package is worked on."""

import hashlib
from functools import cache
from pathlib import Path

__all__ = ["OUTSIDE", "PACKAGE", "source_digest"]

PACKAGE = Path(__file__).resolve().parent.parent
OUTSIDE = ("cli", "export", "interop", "report")  # nothing that a run computes is computed by them


@cache
def source_digest(package: Path = PACKAGE) -> str:
    """Return the SHA-256 of the package's own source files, names and bytes, in order of names.

    The subpackages in `OUTSIDE` are left out: work on them shall not end a search of hours.
    It is computed once a process, so that a process tells the same from start to end.

    >>> len(source_digest())
    64
    """
    digest = hashlib.sha256()
    named = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    for name, path in sorted(named.items()):
        if name.split("/")[0] in OUTSIDE:
            continue
        content = path.read_bytes()
        digest.update(f"{name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()
