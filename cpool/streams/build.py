"""Any class data in any arrangement, by one call."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cpool.errors import ConfigError, DataError, unknown
from cpool.streams._checks import check_seed
from cpool.streams._given import keep_classes, read_data
from cpool.streams._opened import Request, open_source
from cpool.streams.base import Stream
from cpool.streams.domains import domain_incremental
from cpool.streams.drifting import gradual_drift
from cpool.streams.fscil import few_shot
from cpool.streams.long_tail import long_tailed
from cpool.streams.noise import label_noise
from cpool.streams.repetition import repeated
from cpool.streams.scenarios import by_class
from cpool.streams.si_blurry import blurry
from cpool.streams.single_pass import online

__all__ = ["ARRANGEMENTS", "build_stream"]

ARRANGEMENTS: dict[str, Callable[..., Stream]] = {
    "blurry": blurry,
    "few_shot": few_shot,
    "gradual_drift": gradual_drift,
    "label_noise": label_noise,
    "long_tailed": long_tailed,
    "online": online,
    "repeated": repeated,
}
_PLAIN = ("class", "task", "domain")
_READING = {"class_names": None, "columns": None, "test_fraction": 0.2, "test_seed": 0}
_REQUEST: dict[str, Any] = {
    "data": None,
    "train_per_class": None,
    "test_per_class": None,
    "subset_seed": 0,
    "options": None,
}
_NOT_OPTIONS = {"of", "source", "domains", "scenario", "arrangement"}


def build_stream(
    data: Any,
    *,
    arrangement: str = "class",
    class_names: Sequence[str] | None = None,
    classes: Sequence[int | str] | None = None,
    columns: Sequence[str] | None = None,
    test_fraction: float | int = 0.2,
    test_seed: int = 0,
    **options: Any,
) -> Stream:
    """Turn any class data into any arrangement.

    Args:
        data: a registered stream, a file or folder, or a `Stream`; `(x, y, x_test, y_test)` or
            `(x, y)`, with labels as integers 0..C-1 or as names; a map-style data set of (x, y)
            pairs, such as torchvision's; a data set with columns, such as `datasets.Dataset`; or
            `{"train": …, "test": …}` of these. With "domain", a mapping from the name of each
            domain to such data, or a list of them.
        arrangement: "class", "task", "domain", or a key of `ARRANGEMENTS`.
        class_names: one name a class; by default what the data says, else the labels.
        classes: keep only these, by label or name; a stream has all classes of its data.
        columns: names of the columns of inputs and labels, for data sets that have columns.
        test_fraction: share of each class for the test, where no test data is given.
        test_seed: draws this share; apart from `seed`, so that every seed has the same test.
        options: what the arrangement takes; for "class" and "task" what `class_incremental`
            takes, for "domain" what `domain_incremental` takes.

    Raises:
        UnknownNameError: no such arrangement, or no such option of it.
        ConfigError: an option that does not fit.
        DataError: data of a wrong kind.

    >>> x, y = ["one", "two", "three", "four"] * 4, ["odd", "even"] * 8
    >>> stream = build_stream((x, y), arrangement="online", tasks=1, samples=4, validation=0)
    >>> stream.class_names, [len(task.train) for task in stream]
    (('even', 'odd'), [4, 4, 4])
    """
    if arrangement not in (*_PLAIN, *ARRANGEMENTS):
        raise unknown("arrangement", str(arrangement), (*_PLAIN, *ARRANGEMENTS))
    reading = {
        "class_names": class_names,
        "columns": columns,
        "test_fraction": test_fraction,
        "test_seed": test_seed,
    }
    if arrangement == "domain":
        return _domains(data, classes, reading, options)
    if arrangement in ARRANGEMENTS:
        builder = ARRANGEMENTS[arrangement]
        _check_options(builder, options, arrangement)
        return builder(_opened(data, classes, reading, options, always=False)[0], **options)
    source, name = _opened(data, classes, reading, options, always=True)
    options = {"tasks": 5, "seed": 0, "validation": 0.1, "name": name, **options}
    _check_options(by_class, options, arrangement)
    return by_class(source, **{**options, "scenario": arrangement})


def _opened(
    data: Any,
    classes: Sequence[int | str] | None,
    reading: Mapping[str, Any],
    options: dict[str, Any],
    *,
    always: bool,
) -> tuple[Any, str]:
    """Return data as a source and its name; what is named stays a name if it need not be opened.

    The options that say how to open it are then taken out of `options`.
    """
    name = "data"
    if isinstance(data, Stream | str | os.PathLike):
        given = [key for key, value in reading.items() if value != _READING[key]]
        if given:
            raise ConfigError(
                expected="these options only with data that is handed over",
                got=", ".join(given),
                remedy="Give what the registered stream takes in options=.",
            )
        if classes is None and not always:
            return data, name
        request = Request(*(options.pop(key, default) for key, default in _REQUEST.items()))
        source, name = open_source(data, request, check_seed(options.get("seed", 0)))
    else:
        source = read_data(data, **reading)
    return (source if classes is None else keep_classes(source, classes)), name


def _domains(
    data: Any,
    classes: Sequence[int | str] | None,
    reading: Mapping[str, Any],
    options: dict[str, Any],
) -> Stream:
    if isinstance(data, str) or not isinstance(data, Mapping | Sequence) or not len(data):
        raise DataError(
            expected="a mapping from the name of each domain to its data, or a list of data",
            got=type(data).__name__,
            remedy='Pass {"photo": (x, y, x_test, y_test), "sketch": …}.',
        )
    parts = list(data.values()) if isinstance(data, Mapping) else list(data)
    sources = [read_data(part, **reading) for part in parts]
    if classes is not None:
        sources = [keep_classes(source, classes) for source in sources]
    if isinstance(data, Mapping):
        options = {"names": [str(name) for name in data], **options}
    options = {"class_names": sources[0].class_names, **options}
    _check_options(domain_incremental, options, "domain")
    splits = [(s.train.x, s.train.y, s.test.x, s.test.y) for s in sources]
    if any(source.class_names != sources[0].class_names for source in sources):
        raise DataError(
            expected="the same classes in every domain",
            got="other names in some",
            remedy="Give class_names= and integer labels, or use arrangement='class'.",
        )
    return domain_incremental(splits, **options)


def _check_options(builder: Callable[..., Stream], options: Mapping[str, Any], name: str) -> None:
    known = [key for key in inspect.signature(builder).parameters if key not in _NOT_OPTIONS]
    for option in options:
        if option not in known:
            raise unknown(f"option of the arrangement {name!r}", option, known)
