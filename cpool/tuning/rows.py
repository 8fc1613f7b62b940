"""The rows that a model is tuned on: which kind they are, and which of them are held out."""

from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from cpool.data import as_completions
from cpool.errors import ConfigError, DataError
from cpool.settings import is_number
from cpool.streams import Examples, build_stream, load_stream
from cpool.streams._tables import column_names, read_table

__all__ = ["COLUMNS", "Kind", "check_kind", "kind_of", "origin", "read_pairs", "read_task"]

Kind: TypeAlias = Literal["labels", "completions"]

COLUMNS: dict[Kind, tuple[str, str]] = {
    "labels": ("text", "label"),
    "completions": ("prompt", "completion"),
}


def kind_of(data: Any) -> Kind:
    """Return what rows teach: labels of texts, or what shall follow each.

    Args:
        data: a CSV or JSON Lines file; a pair (texts, labels); or columns by name, as
            {"prompt": […], "completion": […]}.

    Raises:
        DataError: columns of both kinds, half of a kind, or none of either.
    """
    if isinstance(data, str | Path):
        names = column_names(Path(data))
    elif hasattr(data, "keys"):  # a mapping, or a table of pandas
        names = tuple(map(str, data))
    else:
        return "labels"
    found = [kind for kind, columns in COLUMNS.items() if set(columns) <= set(names)]
    if len(found) == 1:
        return found[0]  # columns beside them are not read
    if isinstance(data, str | Path) and not names:
        return "labels"  # an empty file: what reads it says so
    raise DataError(
        expected="columns text,label or prompt,completion, of one kind",
        got=f"{', '.join(map(repr, names)) or 'none'} in {origin(data)}",
        remedy="Drop the columns of one kind."
        if len(found) == 2
        else "Rename or add a column; a CSV file names them in its first line.",
    )


def check_kind(data: Any, kind: Kind) -> None:
    """Refuse rows of another kind than those that a model learned from.

    Raises:
        DataError: with both kinds.
    """
    came = kind_of(data)
    if came != kind:
        raise DataError(
            expected=f"rows of {','.join(COLUMNS[kind])}, as this model was tuned on",
            got=f"{','.join(COLUMNS[came])} in {origin(data)}",
            remedy="Tune another folder on them (`cpool tune`).",
        )


def read_task(data: Any, validation: float) -> tuple[Examples, Examples, tuple[str, ...]]:
    """Return the rows to learn from, those held out, and the names of the labels.

    Raises:
        ConfigError: a share that is not between 0 and 1.
        DataError: data of a wrong kind, or one label alone.
    """
    _check_share(validation)
    _check_several(data)
    options: dict[str, Any] = {"tasks": 1, "validation": 0, "test_fraction": validation}
    if isinstance(data, str | Path):
        stream = load_stream("text_file", path=str(data), **options)
    else:
        pair = (data["text"], data["label"]) if hasattr(data, "keys") else data
        stream = build_stream(pair, **options)
    if stream.modality != "text":
        raise DataError(
            expected="texts with labels",
            got=f"{stream.modality} data",
            remedy="For images use an experiment file and `cpool run`.",
        )
    return stream[0].train, stream[0].test, stream.class_names


def read_pairs(data: Any, validation: float, task: int) -> tuple[Examples, Examples]:
    """Return the rows of prompt and completion to learn from, and those held out.

    Rows of one prompt stay together, so that no held-out prompt was learned from.

    Args:
        data: a file with the columns prompt and completion, or both by name.
        validation: share of the different prompts that is held out.
        task: the number of the task, which is the class of its rows.

    Raises:
        ConfigError: a share that is not between 0 and 1.
        DataError: an empty prompt or completion, or fewer than two different prompts.
    """
    _check_share(validation)
    prompts, completions = _pairs(data)
    places = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    if len(places) < 2:
        raise DataError(
            expected="at least two different prompts, one of them to measure on",
            got=f"{len(places)} in {origin(data)}",
            remedy="Add rows.",
        )
    number = min(max(1, round(validation * len(places))), len(places) - 1)
    # The same rows for every seed, as with labels.
    chosen = np.random.default_rng((0, 1)).permutation(len(places))[:number]
    out = np.isin([places[prompt] for prompt in prompts], chosen)
    rows = as_completions(prompts, completions, task)
    return rows.take(~out), rows.take(out)


def _check_share(validation: float) -> None:
    if not is_number(validation) or not 0 < validation < 1:
        raise ConfigError(
            expected="validation between 0 and 1, both excluded",
            got=repr(validation),
            remedy="0.2 holds out a fifth of the rows.",
        )


def _check_several(data: Any) -> None:
    """Refuse rows of one label; what is no pair of columns is refused by who reads it."""
    if isinstance(data, str | Path):
        text, label = COLUMNS["labels"]
        labels: Any = read_table(Path(data), text=text, label=label).labels
    elif hasattr(data, "keys"):
        labels = data["label"]
    else:
        labels = data[1] if isinstance(data, tuple | list) and len(data) == 2 else ()
    names = {str(one) for one in labels}
    if len(names) == 1:
        raise DataError(
            expected="rows of at least two labels: what a task learns is to tell its labels apart",
            got=f"{names.pop()!r} alone in {origin(data)}",
            remedy="Add rows of another label; in a task that is added it may be a known one.",
        )


def _pairs(data: Any) -> tuple[list[str], list[str]]:
    first, second = COLUMNS["completions"]
    if isinstance(data, str | Path):
        table = read_table(Path(data), text=first, label=second)
        return table.texts, table.labels
    columns = {name: list(data[name]) for name in (first, second)}
    for name, values in columns.items():
        for row, value in enumerate(values):
            if not isinstance(value, str) or not value.strip():
                raise DataError(
                    expected=f"a {name} with words in each row",
                    got=f"{value!r} in row {row}",
                    remedy="Drop the row, or give it some.",
                )
    return columns[first], columns[second]


def origin(data: Any) -> str:
    """Return what to call the place that rows came from."""
    return Path(data).name if isinstance(data, str | Path) else "rows"
