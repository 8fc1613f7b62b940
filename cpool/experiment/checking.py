"""From pydantic's errors to one sentence: the key, the nearest known key, and the file."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from cpool.errors import ConfigError, CpoolError, UnknownNameError, nearest
from cpool.experiment.schema import Section, Train

__all__ = ["check_section", "in_file", "named"]

S = TypeVar("S", bound=Section)
E = TypeVar("E", bound=CpoolError)

_LIST = "a list in [ ]"
_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text in quotes",
    "list_type": _LIST,
    "sequence_str": _LIST,
    "tuple_type": _LIST,
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "finite_number": "a finite number",
    "none_required": "",
    "too_short": "a list that is not empty",
    "string_pattern_mismatch": "a name of letters, digits, spaces and . _ + - that starts with a "
    "letter or digit",
}


def check_section(model: type[S], values: Any, where: str, source: str) -> S:
    """Return `values` as a checked section.

    Args:
        model: the section's model.
        values: what the file holds.
        where: dotted path of the section, "" for the file itself.
        source: the file, for the message.

    Raises:
        UnknownNameError: an unknown key; the nearest known one is named.
        ConfigError: a missing key, or a value of a wrong type.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(error, model, values, where, source) from None


def in_file(error: E, source: str, what: str = "") -> E:
    """Return `error` with the file, and what it is about, in the message if they are missing."""
    if source in str(error):
        return error
    about = f"for {what} of {source}" if what else f"in {source}"
    return type(error)(expected=error.expected, got=f"{error.got} {about}", remedy=error.remedy)


@contextlib.contextmanager
def named(source: str, what: str) -> Iterator[None]:
    """Name the file in errors of parts that know of no file."""
    try:
        yield
    except CpoolError as error:
        raise in_file(error, source, what) from error


def _explain(
    error: ValidationError, model: type[Section], values: Any, where: str, source: str
) -> ConfigError:
    found = error.errors(include_url=False)
    # A misspelt key also leaves the right one missing, so it is named first.
    found.sort(key=lambda e: e["type"] != "extra_forbidden")
    first = found[0]
    path = _path(first["loc"], values, first["type"])
    dotted = ".".join([where, *map(str, path)] if where else map(str, path))
    own = first.get("ctx", {}).get("error")
    if isinstance(own, ConfigError):  # of a value that was read from elsewhere
        return in_file(own, source, dotted)
    if first["type"] == "extra_forbidden":
        return _unknown_key(dotted, path, model, where, source)
    if first["type"] == "missing":
        return ConfigError(
            expected=f"the key {dotted!r}", got="none", remedy=f"Add it to {source}."
        )
    about = [e for e in found if _path(e["loc"], values, e["type"]) == path]
    kinds = _kinds(about, len(path))
    return ConfigError(
        expected=f"{dotted} as {' or '.join(kinds)}",
        got=_shown(first["input"]),
        remedy=f"Correct {dotted} in {source}.",
    )


def _path(loc: tuple[int | str, ...], values: Any, kind: str) -> tuple[int | str, ...]:
    """Return the part of `loc` that the file has; pydantic adds the members of unions to it."""
    path: list[int | str] = []
    for step in loc:
        inside = isinstance(values, Mapping) and step in values
        if not inside and not (isinstance(values, list) and isinstance(step, int)):
            return (*path, step) if kind == "missing" else tuple(path)
        path.append(step)
        values = values[step]
    return tuple(path)


def _unknown_key(
    dotted: str, path: tuple[int | str, ...], model: type[Section], where: str, source: str
) -> UnknownNameError:
    key, inner = str(path[-1]), model
    for step in path[:-1]:  # [method.train] and the options of "joint" are models in models
        annotation = inner.model_fields[str(step)].annotation
        inner = annotation if isinstance(annotation, type) else inner
    known = list(inner.model_fields)
    close = nearest(key, known)
    prefix = dotted[: -len(key)]
    if close is None and key in Train.model_fields:
        home = f"{where}.train" if where.startswith("method.") else "train"
        remedy = f"It is a training setting: did you mean {f'{home}.{key}'!r}?"
    elif close is not None:
        remedy = f"Did you mean {prefix + close!r}?"
    else:
        remedy = "Remove it."
    section = prefix.rstrip(".") or "an experiment"
    return UnknownNameError(
        expected=f"a known key of {section} ({', '.join(known)})",
        got=f"{dotted!r} in {source}",
        remedy=remedy,
    )


def _kinds(errors: Sequence[Any], start: int) -> list[str]:
    """Return what a value must be, by the errors of the members of its union.

    Args:
        errors: about the value, or about entries of it, or of lists in it.
        start: where in their `loc` the value ends.
    """
    by_depth: dict[int, list[str]] = {}
    for error in errors:
        depth = sum(isinstance(step, int) for step in error["loc"][start:])
        kind = _kind(error)
        if kind and kind not in by_depth.setdefault(depth, []):
            by_depth[depth].append(kind)
    kinds = by_depth.pop(0, [])
    for depth, inner in sorted(by_depth.items()):
        lists = _LIST + " of lists" * (depth - 1)
        kinds.append(f"{lists} whose entries are each {' or '.join(inner)}")
    return kinds


def _kind(error: Any) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"a number {'from' if kind[0] == 'g' else 'up to'} {next(iter(context.values()))}"
    if kind == "is_instance_of":
        # Sequence and PathLike: only the first can be written in TOML.
        return _LIST if "Sequence" in context["class"] else ""
    return _KINDS.get(kind, str(error["msg"]))


def _shown(value: Any) -> str:
    kinds = {bool: "a truth value", int: "a whole number", float: "a number", str: "a text"}
    kinds |= {list: "a list", dict: "a table"}
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    text = text if len(text) <= 60 else text[:57] + "…"
    return f"{text} ({kinds.get(type(value), type(value).__name__)})"
