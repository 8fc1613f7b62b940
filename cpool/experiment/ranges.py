"""Ranges of a search: `{low = 1e-4, high = 0.1, log = true}` in the place of a list of values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cpool.errors import ConfigError
from cpool.settings import is_number

__all__ = ["Range", "is_range", "read_range"]

_KEYS = ("low", "high", "log")


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included; whole numbers where both are whole.

    Attributes:
        low, high: the ends.
        log: draw evenly in the logarithm.

    >>> 5 in Range(2, 16), 5.5 in Range(2, 16), 0.1 in Range(1e-4, 0.1, log=True)
    (True, False, True)
    """

    low: int | float
    high: int | float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __contains__(self, value: object) -> bool:
        """Tell whether a value can be drawn."""
        if not is_number(value) or (self.whole and not isinstance(value, int)):
            return False
        assert isinstance(value, int | float)
        return self.low <= value <= self.high

    def table(self) -> dict[str, Any]:
        """Return it as a file holds it."""
        return {"low": self.low, "high": self.high, **({"log": True} if self.log else {})}


def is_range(value: Any) -> bool:
    """Tell whether a value of `[method.search]` is meant as a range, right or not.

    A method may have settings called low and high; what stands under these are lists.

    >>> is_range({"low": 1}), is_range({"low": [1, 2], "high": [3]}), is_range([1, 2])
    (True, False, False)
    """
    return isinstance(value, Mapping) and any(
        key in value and not isinstance(value[key], list | Mapping) for key in ("low", "high")
    )


def read_range(value: Mapping[str, Any], where: str, source: str) -> Range:
    """Return a range, its ends still unchecked against the setting that they are of.

    Args:
        value: the table.
        where: dotted path of the setting.
        source: the file, for the message.

    Raises:
        ConfigError: a key missing or unknown, ends that are no numbers or in the wrong order, or a
            logarithm of what is not above 0.
    """

    def need(right: bool, expected: str, got: str, remedy: str) -> None:
        if not right:
            raise ConfigError(
                expected=f"{expected} in {where}", got=f"{got} in {source}", remedy=remedy
            )

    unknown = [key for key in value if key not in _KEYS]
    example = "Write it as {low = 0.001, high = 0.1, log = true}; log may be left out."
    need(not unknown, "a range of low, high and log", f"{', '.join(map(repr, unknown))}", example)
    missing = [key for key in ("low", "high") if not is_number(value.get(key))]
    got = ", ".join(f"{key} = {value.get(key, 'nothing')!r}" for key in missing)
    need(not missing, "numbers as low and high", got, example)
    low, high, log = value["low"], value["high"], value.get("log", False)
    need(isinstance(log, bool), "true or false as log", repr(log), "Leave log out for false.")
    need(low < high, "low below high", f"low = {low}, high = {high}", "Exchange or change them.")
    need(not log or low > 0, "low above 0 where log = true", f"low = {low}", "Raise low.")
    return Range(low, high, log)
