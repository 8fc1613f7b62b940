"""The parts that an experiment names: backbone and streams; checked before any training."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cpool.backbones import Backbone, load_backbone
from cpool.errors import (
    ConfigError,
    DataError,
    nearest,
    unknown,
)
from cpool.experiment.config import Experiment
from cpool.experiment.stand_ins import stand_in_backbone, stand_in_options
from cpool.streams import Stream, load_stream

__all__ = ["open_backbone", "open_stream"]


def open_backbone(section: Mapping[str, Any], dry: Experiment | None = None) -> Backbone:
    """Load the backbone of `[backbone]`.

    Args:
        section: arguments of `load_backbone`.
        dry: an experiment; if it is a dry run, a small random backbone stands in.

    Raises:
        BackboneError: nothing under that name.
        UnknownNameError: nearly "embedded".
        MissingDependencyError: the package is not installed.
    """
    name = section["name"]
    slip = name != "embedded" and nearest(name, ["embedded"]) and not Path(name).exists()
    if slip:  # told at once, not after a long search of the hub
        raise unknown("backbone", name, ["embedded"])
    if dry is not None and dry.dry_run:
        return stand_in_backbone(dry)
    options = {key: value for key, value in section.items() if key != "name"}
    return load_backbone(name, **options)


def open_stream(experiment: Experiment, seed: int, backbone: Backbone | None = None) -> Stream:
    """Build the stream as a run with `seed` sees it, and check that the backbone can read it.

    Raises:
        ConfigError: an option that does not fit, or images for a text model or the reverse.
        DataError: the data is missing.
    """
    options = dict(experiment.stream)
    options.setdefault("seed", seed)
    if experiment.stand_ins is not None:
        options = stand_in_options(options, experiment.stand_ins)
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
