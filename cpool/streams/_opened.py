"""What an arrangement is given, a registered name, a stream, or data, becomes what it needs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cpool.errors import ConfigError, unknown
from cpool.streams._given import as_source, read_data
from cpool.streams._source import Source, subset
from cpool.streams.base import Stream
from cpool.streams.scenarios import by_class

__all__ = ["Request", "open_source", "open_stream"]


class Request(NamedTuple):
    """The options that every arrangement passes on to the data it arranges.

    Attributes:
        data: folder of the data sets.
        train_per_class: how many training examples of each class to keep.
        test_per_class: how many test examples of each class to keep.
        subset_seed: draws the kept examples.
        options: further options of the registered stream.
    """

    data: str | os.PathLike[str] | None
    train_per_class: int | None
    test_per_class: int | None
    subset_seed: int
    options: Mapping[str, Any] | None

    @property
    def sizes(self) -> tuple[int | None, int | None, int]:
        """Return the three arguments of `subset`."""
        return self.train_per_class, self.test_per_class, self.subset_seed


def open_source(of: Any, request: Request, seed: int) -> tuple[Source, str]:
    """Return the class data behind `of`, not yet in tasks, and its name.

    Raises:
        ConfigError: options that do not fit, or a domain-incremental stream.
        DataError: data that is missing or of a wrong kind.
    """
    if not isinstance(of, Stream | str | os.PathLike):
        return subset(_data(of, request), *request.sizes), "data"
    if isinstance(of, Stream):
        _nothing(request)
        return as_source(of), of.name
    # The classes are divided anew, so what divides them below would be lost.
    lost = set(request.options or {}) & {"tasks", "scenario"}
    if lost:
        raise ConfigError(
            expected="options of the data, since the arrangement makes the tasks itself",
            got=", ".join(sorted(lost)),
            remedy="Give tasks beside `of`, where the arrangement has them, or leave them out.",
        )
    stream = _named(of, request, seed=seed, validation=0)
    return as_source(stream), stream.name


def open_stream(
    of: Any, request: Request, *, seed: int, validation: float | int, tasks: Any
) -> Stream:
    """Return the stream behind `of`; data is cut into tasks by class first.

    Raises:
        ConfigError: options that do not fit.
        DataError: data that is missing or of a wrong kind.
    """
    if isinstance(of, Stream):
        _nothing(request, tasks)
        return of
    if isinstance(of, str | os.PathLike):
        return _named(of, request, seed=seed, validation=validation, tasks=tasks)
    return by_class(
        subset(_data(of, request), *request.sizes),
        tasks=5 if tasks is None else tasks,
        seed=seed,
        validation=validation,
        name="data",
    )


def _data(of: Any, request: Request) -> Source:
    _nothing(request._replace(train_per_class=None, test_per_class=None, subset_seed=0))
    return read_data(of)


def _nothing(request: Request, tasks: Any = None) -> None:
    """Refuse options that would change nothing."""
    given = [
        *(["tasks"] if tasks is not None else []),
        *(f for f in ("train_per_class", "test_per_class") if getattr(request, f) is not None),
        *(["subset_seed"] if request.subset_seed else []),
        *(["data"] if request.data is not None else []),
        *(["options"] if request.options else []),
    ]
    if given:
        raise ConfigError(
            expected="these options only where the data is still to be opened and cut",
            got=", ".join(given),
            remedy="Give them where the stream is built, or name a registered stream.",
        )


def _named(of: str | os.PathLike[str], request: Request, **common: Any) -> Stream:
    # The registry knows the arrangements, and an arrangement opens what the registry knows.
    from cpool.streams.registry import STREAMS, load_stream

    options = dict(request.options or {})
    beside = {*common, "data", "train_per_class", "test_per_class", "subset_seed"}
    for key in sorted(set(options) & beside):
        raise ConfigError(
            expected="options that the arrangement does not have itself",
            got=repr(key),
            remedy=f"Give {key} beside `of`, not in its options.",
        )
    name = str(of)
    if name not in STREAMS:
        path = Path(of)
        if not path.exists():
            raise unknown("stream, file or folder", name, STREAMS)
        name = "image_folder" if path.is_dir() else "text_file"
        options = {"path": path, **options}
    if request.train_per_class is not None:
        options["train_per_class"] = request.train_per_class
    if request.test_per_class is not None:
        options["test_per_class"] = request.test_per_class
    if request.subset_seed:
        options["subset_seed"] = request.subset_seed
    return load_stream(name, data=request.data, **common, **options)
