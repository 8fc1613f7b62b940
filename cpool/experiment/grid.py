"""From `[method.search]` to the points of a grid: flat keys, checked values, product order."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from cpool.errors import ConfigError
from cpool.experiment.checking import check_section
from cpool.experiment.ranges import Range, is_range, read_range
from cpool.experiment.schema import Section

__all__ = [
    "check_budget",
    "check_chosen",
    "check_drawn",
    "corners_of",
    "flat",
    "merged",
    "only_lists",
    "points_of",
    "read_grid",
]

# What decides on which data a method is judged; a search that could change it would be none.
_PROTOCOL = ("backbone", "evaluate", "search", "seed", "seeds", "stream", "test", "validation")


def read_grid(
    values: Mapping[str, Any], model: type[Section], where: str, source: str
) -> dict[str, tuple[Any, ...] | Range]:
    """Return the grid as dotted key → values or range, in the order of the file.

    Args:
        values: what `[method.search]` holds; "train.lr" may be one key or a table in a table.
        model: the section's model, from `grid_section`.
        where: dotted path of the section.
        source: the file, for the message.

    Raises:
        ConfigError: no key, an empty list, a value twice, a value of a wrong type, a range that
            is none, or a key that would change what the method is judged on.
    """
    grid = flat(values)
    ranges = {
        key: read_range(value, f"{where}.{key}", source)
        for key, value in grid.items()
        if is_range(value)
    }
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
    # Both ends of a range must be values of the setting, and say whether it is of whole numbers.
    listed = {
        key: [ranges[key].low, ranges[key].high] if key in ranges else grid[key] for key in grid
    }
    checked = flat(
        check_section(model, merged({}, listed), where, source).model_dump(exclude_unset=True)
    )
    for key in grid:
        seen = checked[key]
        if any(value in seen[:k] for k, value in enumerate(seen)):
            raise ConfigError(
                expected=f"different values of {where}.{key}",
                got=f"{list(seen)} in {source}",
                remedy="Name each value once.",
            )
    return {key: _options(checked[key], ranges.get(key)) for key in grid}


def only_lists(
    grid: Mapping[str, tuple[Any, ...] | Range], where: str, source: str
) -> dict[str, tuple[Any, ...]]:
    """Return a grid that has no range.

    Raises:
        ConfigError: it has one.
    """
    lists = {key: values for key, values in grid.items() if not isinstance(values, Range)}
    for key in grid:
        if key not in lists:
            raise ConfigError(
                expected=f"a list of values in {where}.{key}, since search.sampler is a grid",
                got=f"a range in {source}",
                remedy='Write a list, or set sampler = "optuna" in [search] to draw from ranges.',
            )
    return lists


def corners_of(grid: Mapping[str, tuple[Any, ...] | Range]) -> list[dict[str, Any]]:
    """Return points that have both ends of each range and each value of each list.

    >>> corners_of({"length": Range(2, 16), "train.lr": (0.1, 0.2, 0.3)})
    [{'length': 2, 'train.lr': 0.1}, {'length': 16, 'train.lr': 0.2},
     {'length': 2, 'train.lr': 0.3}]
    """
    ends = {k: (v.low, v.high) if isinstance(v, Range) else v for k, v in grid.items()}
    return [
        {key: values[number % len(values)] for key, values in ends.items()}
        for number in range(max(map(len, ends.values())))
    ]


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


def check_drawn(
    values: Mapping[str, Any],
    grid: Mapping[str, tuple[Any, ...] | Range],
    where: str,
    source: str,
) -> dict[str, Any]:
    """Return the point that `[method.chosen]` names, of those that could have been drawn.

    Raises:
        ConfigError: it could not.
    """
    chosen = flat(values)
    point: dict[str, Any] = {}
    for key, options in grid.items():
        if isinstance(options, Range):
            point |= {key: chosen[key]} if chosen.get(key) in options else {}
        else:
            same = [value for value in options if _listed(value) == _listed(chosen.get(key))]
            point |= {key: same[0]} if same else {}
    if list(point) != list(grid) or set(chosen) != set(grid):
        raise ConfigError(
            expected=f"{where}.chosen, a point of {where}.search",
            got=f"{chosen} in {source}",
            remedy="`cpool run` writes this table; remove it to search anew.",
        )
    return point


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a table of tables as dotted key → value, in its order; a range is a value.

    >>> flat({"train": {"lr": [1]}, "train.epochs": [2]})
    {'train.lr': [1], 'train.epochs': [2]}
    """
    result: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}.{key}" if prefix else key
        table = isinstance(value, Mapping) and not is_range(value)
        result |= flat(value, dotted) if table else {dotted: value}
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


def _options(checked: list[Any], given: Range | None) -> tuple[Any, ...] | Range:
    """Return the values of a list, or a range with its ends as the setting takes them."""
    return tuple(checked) if given is None else Range(checked[0], checked[1], given.log)


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, list | tuple) else value
