"""What the command line changes in an experiment: `--set a.b=value` and `--seeds 0,1,2`."""

import re
import tomllib
from typing import Any

from cpool.errors import ConfigError, nearest, unknown

__all__ = ["apply_override", "parse_seeds", "parse_value"]

# A shell eats quotes, so a bare word (a name, a path, a hub id) is taken as a text.
_WORD = re.compile(r"[A-Za-z_./~][\w./:~ -]*")


def parse_value(text: str, what: str = "value") -> Any:
    """Return `text` as TOML reads it; a bare word is a text.

    >>> parse_value("2"), parse_value("[0, 1]"), parse_value("true"), parse_value("embedded")
    (2, [0, 1], True, 'embedded')

    Raises:
        ConfigError: it is neither.
    """
    text = text.strip()
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if _WORD.fullmatch(text):
            return text
        raise ConfigError(
            expected=f"{what} as a TOML value, such as 2, 0.1, true, [1, 2] or '\"text\"'",
            got=f"{text!r}: {error}",
            remedy="Put the whole argument into single quotes: --set 'name=\"text\"'.",
        ) from None
    if set(parsed) != {"value"}:  # a line break would smuggle in other keys
        raise ConfigError(expected="one value", got=repr(text), remedy="Use --set once a key.")
    return parsed["value"]


def apply_override(raw: dict[str, Any], text: str) -> None:
    """Change one key of the file's content, as `--set key=value` says.

    A method is addressed by its label (its name when it has none): `method.l2p.top_k=3`.

    Raises:
        ConfigError: no "=", no such method, or a path through something that is no table.
    """
    key, sign, value = text.partition("=")
    key = key.strip()
    if not sign or not all(part.strip() for part in key.split(".")):
        raise ConfigError(
            expected="--set key=value, such as train.epochs=2",
            got=repr(text),
            remedy="Write the dotted key, =, and a TOML value.",
        )
    table, path = raw, key.split(".")
    if path[0] == "method":
        table, path = _method(raw, key)
    for done, part in enumerate(path[:-1]):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(
                expected=f"a table {'.'.join(path[: done + 1])!r}",
                got=f"a value, in --set {text}",
                remedy="Address a key of a table, such as train.epochs.",
            )
    table[path[-1]] = parse_value(value, f"{key!r}")


def _method(raw: dict[str, Any], key: str) -> tuple[dict[str, Any], list[str]]:
    methods = raw.get("method")
    methods = methods if isinstance(methods, list) else [methods]
    labels = {
        str(method.get("label", method.get("name"))): method
        for method in methods
        if isinstance(method, dict)
    }
    rest = key.removeprefix("method").removeprefix(".")
    # Labels may hold dots; the longest that fits is meant.
    for label in sorted(labels, key=len, reverse=True):
        if rest.startswith(f"{label}."):
            return labels[label], rest[len(label) + 1 :].split(".")
    name, _, last = rest.partition(".")
    if last:
        raise unknown("method label", name, labels)
    raise ConfigError(
        expected=f"method.<label>.key, with a label of {', '.join(labels)}",
        got=repr(key),
        remedy=f"Did you mean method.{nearest(name, labels) or next(iter(labels), 'l2p')}.…?",
    )


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `--seeds`.

    >>> parse_seeds("0,1, 2")
    [0, 1, 2]

    Raises:
        ConfigError: not a list of different whole numbers from 0.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d+", part, re.ASCII) for part in parts):
        raise ConfigError(
            expected="--seeds as whole numbers from 0 with commas between them",
            got=repr(text),
            remedy="Write --seeds 0,1,2.",
        )
    return [int(part) for part in parts]
