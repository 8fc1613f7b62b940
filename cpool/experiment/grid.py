"""From `[method.search]` to the points of a grid: flat keys, checked values, product order."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from cpool.errors import ConfigError
from cpool.experiment.checking import check_section
from cpool.experiment.schema import Section

__all__ = ["check_budget", "check_chosen", "flat", "merged", "points_of", "read_grid"]

# What decides on which data a method is judged; a search that could change it would be none.
_PROTOCOL = ("backbone", "evaluate", "search", "seed", "seeds", "stream", "test", "validation")


def read_grid(
    values: Mapping[str, Any], model: type[Section], where: str, source: str
) -> dict[str, tuple[Any, ...]]:
    """Return the grid as dotted key → values, in the order of the file.

    Args:
        values: what `[method.search]` holds; "train.lr" may be one key or a table in a table.
        model: the section's model, from `grid_section`.
        where: dotted path of the section.
        source: the file, for the message.

    Raises:
        ConfigError: no key, an empty list, a value twice, a value of a wrong type, or a key that
            would change what the method is judged on.
    """
    grid = flat(values)
    for key in grid:
        root = key.partition(".")[0]
        if root in _PROTOCOL and root not in model.model_fields:
            raise ConfigError(
                expected=f"only settings of the method in {where}: trials are judged on the "
                "validation data of [search]",
                got=f"{key!r} in {source}, which decides what a method sees or is judged on",
                remedy=f"Remove {key!r}; the test data are used once, with the chosen settings.",
            )
    if not grid:
        raise ConfigError(
            expected=f"at least one list of values in {where}",
            got=f"none in {source}",
            remedy='Add one, such as "train.lr" = [0.001, 0.01], or remove the table.',
        )
    checked = flat(
        check_section(model, merged({}, grid), where, source).model_dump(exclude_unset=True)
    )
    for key in grid:
        seen = checked[key]
        if any(value in seen[:k] for k, value in enumerate(seen)):
            raise ConfigError(
                expected=f"different values of {where}.{key}",
                got=f"{list(seen)} in {source}",
                remedy="Name each value once.",
            )
    return {key: tuple(checked[key]) for key in grid}


def points_of(grid: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return all combinations, the last key changing fastest.

    >>> points_of({"length": (5, 10), "train.lr": (0.1, 0.2)})[1]
    {'length': 5, 'train.lr': 0.2}
    """
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def check_budget(grid: Mapping[str, tuple[Any, ...]], budget: int, where: str, source: str) -> None:
    """Refuse a grid of more points than the budget.

    Raises:
        ConfigError: it has more.
    """
    size = math.prod(map(len, grid.values()))
    if size > budget:
        product = " × ".join(f"{len(values)} {key}" for key, values in grid.items())
        raise ConfigError(
            expected=f"at most {budget} trials a method (search.budget) in {where}",
            got=f"{size} ({product}) in {source}",
            remedy="Shorten the grid, or raise search.budget, which every method shares.",
        )


def check_chosen(
    values: Mapping[str, Any], points: list[dict[str, Any]], where: str, source: str
) -> int:
    """Return the number of the point that `[method.chosen]` names.

    Raises:
        ConfigError: it names none.
    """
    chosen = {key: _listed(value) for key, value in flat(values).items()}
    for number, point in enumerate(points):
        if {key: _listed(value) for key, value in point.items()} == chosen:
            return number
    raise ConfigError(
        expected=f"{where}.chosen, one of the {len(points)} points of {where}.search",
        got=f"{chosen} in {source}",
        remedy="`cpool run` writes this table; remove it to search anew.",
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a table of tables as dotted key → value, in its order.

    >>> flat({"train": {"lr": [1]}, "train.epochs": [2]})
    {'train.lr': [1], 'train.epochs': [2]}
    """
    result: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}.{key}" if prefix else key
        result |= flat(value, dotted) if isinstance(value, Mapping) else {dotted: value}
    return result


def merged(section: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `section` in which the dotted keys of `point` have new values.

    >>> merged({"train": {"epochs": 2}}, {"train.lr": 0.1})
    {'train': {'epochs': 2, 'lr': 0.1}}
    """
    result = dict(section)
    for dotted, value in point.items():
        key, _, rest = dotted.partition(".")
        inner = result.get(key)
        if rest:
            result[key] = merged(inner if isinstance(inner, Mapping) else {}, {rest: value})
        else:
            result[key] = value
    return result


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, list | tuple) else value
