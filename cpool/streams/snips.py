"""SNIPS: queries to a voice assistant, seven intents."""

import json
import os
from pathlib import Path
from typing import Any, Literal

from cpool.errors import DataError
from cpool.streams._labels import class_ids
from cpool.streams._locate import DataSet, locate
from cpool.streams._source import Source, read_source
from cpool.streams._splits import ClassOrder, Tasks
from cpool.streams.base import Stream
from cpool.streams.scenarios import by_class

__all__ = ["SNIPS", "snips", "snips_source"]

_INTENTS = (
    "AddToPlaylist",
    "BookRestaurant",
    "GetWeather",
    "PlayMusic",
    "RateBook",
    "SearchCreativeWork",
    "SearchScreeningEvent",
)
SNIPS = DataSet(
    title="SNIPS",
    folder="SNIPS",
    files=tuple(
        file for name in _INTENTS for file in (f"train_{name}_full.json", f"validate_{name}.json")
    ),
    origin="sonos/nlu-benchmark on GitHub (2017-06-custom-intent-engines)",
)


def snips(
    *,
    tasks: Tasks = 3,
    seed: int = 0,
    validation: float | int = 0.1,
    data: str | os.PathLike[str] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    class_order: ClassOrder = None,
    scenario: Literal["class", "task"] = "class",
) -> Stream:
    """Build SNIPS: 7 intents, about 1,970 training and 100 test queries each, in 3 tasks.

    Three tasks have 3, 2 and 2 intents: a task needs two, to be trained with a loss over its own
    classes. The test queries are the data set's own `validate` files. Arguments and errors are
    those of `clinc150` with `by="random"`; `data` holds `SNIPS/`.

    Reference: A. Coucke et al., Snips Voice Platform, 2018, arXiv:1805.10190 (CC0).
    """
    return by_class(
        snips_source(data),
        tasks=tasks,
        seed=seed,
        validation=validation,
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        subset_seed=subset_seed,
        class_order=class_order,
        scenario=scenario,
        name="snips",
    )


def snips_source(data: str | os.PathLike[str] | None) -> Source:
    """Return all queries, training and test, with the seven intents as classes."""
    paths = locate(SNIPS, data)
    splits: list[tuple[list[str], Any]] = []
    for files in (paths[0::2], paths[1::2]):
        read = [_queries(path, name) for path, name in zip(files, _INTENTS, strict=True)]
        labels = [name for name, some in zip(_INTENTS, read, strict=True) for _ in some]
        splits.append(([text for some in read for text in some], class_ids(labels, _INTENTS)))
    return read_source(*splits[0], *splits[1], _INTENTS)


def _queries(path: Path, name: str) -> list[str]:
    """Read the queries of one intent; each is written as pieces of text, some of them marked."""
    try:
        # One file has a character as two surrogates of three bytes each, which are no UTF-8.
        halves = path.read_bytes().decode("utf-8", "surrogatepass")
        text = halves.encode("utf-16", "surrogatepass").decode("utf-16")
        rows = json.loads(text)[name]
        return ["".join(piece["text"] for piece in row["data"]).strip() for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            expected=f"queries of the intent {name!r} in {path}",
            got=f"{type(error).__name__}: {error}",
            remedy=f"Get the file again from {SNIPS.origin}.",
        ) from error
