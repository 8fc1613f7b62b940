"""The rows of an experiment: `[[method]]` tables, checked, with the candidates of their grids."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cpool.errors import ConfigError, CpoolError
from cpool.experiment.checking import check_section, in_file
from cpool.experiment.config import Candidate, MethodEntry, SearchPlan, Space
from cpool.experiment.grid import (
    check_budget,
    check_chosen,
    check_drawn,
    corners_of,
    merged,
    only_lists,
    points_of,
    read_grid,
)
from cpool.experiment.schema import grid_section, method_section
from cpool.methods import method_from

__all__ = ["name_of", "read_rows"]


def name_of(section: Mapping[str, Any], where: str, source: str) -> str:
    """Return the key "name" of a section, which decides what else it may hold.

    Raises:
        ConfigError: there is none, or it is no text.
    """
    name = section.get("name")
    if not isinstance(name, str):
        got = "none" if name is None else repr(name)
        raise ConfigError(
            expected=f"the key '{where}.name', a text", got=got, remedy=f"Correct it in {source}."
        )
    return name


def read_rows(
    sections: Sequence[Mapping[str, Any]],
    train: Mapping[str, Any],
    plan: SearchPlan | None,
    not_run: Mapping[str, str],
    source: str,
) -> tuple[MethodEntry, ...]:
    """Return the rows of an experiment, every point of their grids checked.

    Args:
        sections: the `[[method]]` tables.
        train: `[train]`, what was given.
        plan: `[search]`; None when there is none.
        not_run: label → why the method is left out.
        source: the file, for messages.

    Raises:
        ConfigError: keys or values that do not fit, a label twice, a method twice with the same
            settings, a grid above the budget, or a grid without `[search]`.
    """
    entries: list[MethodEntry] = []
    for section in sections:
        name = name_of(section, "method", source)
        label = section.get("label", name)
        if label in [entry.label for entry in entries]:
            raise ConfigError(
                expected="a label of its own for each [[method]]",
                got=f"{label!r} twice in {source}",
                remedy=f'Add a line such as label = "{label}-2" to one of them.',
            )
        entry = _entry(section, name, str(label), train, plan, source)
        _check_new(entry, entries, source)
        entries.append(entry)
    if plan is not None and not any(entry.grid for entry in entries):
        raise ConfigError(
            expected="a [method.search] for at least one method, since there is a [search]",
            got=f"none in {source}",
            remedy='Add one, such as "train.lr" = [0.001, 0.01], or remove [search].',
        )
    _check_not_run(not_run, entries, source)
    return tuple(entries)


def _check_new(entry: MethodEntry, others: Sequence[MethodEntry], source: str) -> None:
    """Refuse the same method with the same settings, whatever the labels say."""
    for other in others:
        if _settings(other) == _settings(entry):
            raise ConfigError(
                expected="different methods, or different settings of one",
                got=f"{other.label!r} and {entry.label!r}, which are both {entry.method.name!r} "
                f"with the same settings, in {source}",
                remedy="Change a setting of one of them, or remove it; seeds repeat a method.",
            )


def _settings(entry: MethodEntry) -> tuple[Any, ...]:
    # Joint training names another method; what counts is that one, however it is spelled out.
    method = getattr(entry.method, "inner", entry.method)
    return entry.method.name, method, entry.train, entry.grid


def _check_not_run(reasons: Mapping[str, str], entries: Sequence[MethodEntry], source: str) -> None:
    for label in reasons:
        if label in [entry.label for entry in entries]:
            raise ConfigError(
                expected="only methods that are left out in [not_run]",
                got=f"{label!r}, which has a [[method]] too, in {source}",
                remedy="Remove one of the two.",
            )


def _entry(
    section: Mapping[str, Any],
    name: str,
    label: str,
    train: Mapping[str, Any],
    plan: SearchPlan | None,
    source: str,
) -> MethodEntry:
    """Return a row, with one candidate a point of its grid; every one of them is checked."""
    where = f"method.{label}"
    plain = {key: value for key, value in section.items() if key not in ("search", "chosen")}
    base = _method(plain, name, label, train, source)
    _, whole = _sections(section, name, label, source)
    if whole.get("search") is None:
        if "chosen" in whole:
            raise ConfigError(
                expected=f"{where}.search beside {where}.chosen",
                got=f"none in {source}",
                remedy="Write the settings into the method itself, or add the grid.",
            )
        return MethodEntry(label, base.method, base.train)
    if plan is None:
        raise ConfigError(
            expected=f"a [search] for {where}.search, with the budget of all methods",
            got=f"none in {source}",
            remedy="Add a table [search] with budget = 4, or remove the grid.",
        )
    grid = read_grid(whole["search"], _grid_model(section, name), f"{where}.search", source)

    def make(point: Mapping[str, Any]) -> Candidate:
        made = _method(merged(plain, point), name, label, train, source)
        return replace(made, settings=point)

    named = whole.get("chosen")
    if plan.sampler == "optuna":
        assert plan.trials is not None
        space = Space(plan.trials, make, tuple(make(point) for point in corners_of(grid)))
        chosen = None if named is None else make(check_drawn(named, grid, where, source))
        return MethodEntry(label, base.method, base.train, grid, (), chosen, space)
    lists = only_lists(grid, f"{where}.search", source)
    check_budget(lists, plan.budget, f"{where}.search", source)
    points = points_of(lists)
    candidates = tuple(make(point) for point in points)
    chosen = None if named is None else candidates[check_chosen(named, points, where, source)]
    return MethodEntry(label, base.method, base.train, grid, candidates, chosen)


def _of(section: Mapping[str, Any], name: str) -> str | None:
    of = section.get("of", "fine_tune") if name == "joint" else None
    return of if isinstance(of, str) else None


def _grid_model(section: Mapping[str, Any], name: str) -> Any:
    return grid_section(name, _of(section, name))


def _sections(
    section: Mapping[str, Any], name: str, label: str, source: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the method's own settings, and all that is in the section, both checked."""
    model = method_section(name, _of(section, name))
    given = check_section(model, section, f"method.{label}", source).model_dump(exclude_unset=True)
    apart = ("name", "label", "train", "search", "chosen")
    return {k: v for k, v in given.items() if k not in apart}, given


def _method(
    section: Mapping[str, Any], name: str, label: str, train: Mapping[str, Any], source: str
) -> Candidate:
    own, given = _sections(section, name, label, source)
    try:
        method = method_from(name, own)
        settings = method.settings.but(**train).but(**given.get("train", {}))
    except CpoolError as error:
        raise in_file(error, source, f"the method {label!r}") from None
    return Candidate({}, method, settings)
