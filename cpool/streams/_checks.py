"""Options that a builder checks before it uses them: numbers, shares, flags, seeds."""

from typing import Any

import numpy as np

from cpool.errors import ConfigError

__all__ = ["check_flag", "check_fraction", "check_seed", "check_validation", "check_whole"]


def check_seed(seed: Any, what: str = "seed") -> int:
    """Return a whole number from 0.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(
            expected=f"{what} as a whole number from 0", got=repr(seed), remedy=f"Use {what}=0."
        )
    return int(seed)


def check_flag(value: Any, what: str) -> bool:
    """Return a truth value.

    Raises:
        ConfigError: anything that is not True or False, such as "no".
    """
    if not isinstance(value, bool):
        raise ConfigError(
            expected=f"{what} as true or false", got=repr(value), remedy=f"Use {what}=true."
        )
    return value


def check_validation(fraction: Any) -> float:
    """Return the validation fraction.

    Raises:
        ConfigError: not a number in [0, 1).
    """
    number = isinstance(fraction, int | float | np.floating) and not isinstance(fraction, bool)
    if not number or not 0.0 <= fraction < 1.0:
        raise ConfigError(
            expected="validation as a fraction of the training data in [0, 1)",
            got=repr(fraction),
            remedy="0.1 holds out a tenth of every class; 0 nothing.",
        )
    return float(fraction)


def check_fraction(value: Any, what: str, *, closed: bool = False) -> float:
    """Return a number in [0, 1), or with `closed` in [0, 1].

    Raises:
        ConfigError: anything else.
    """
    number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
    if not number or not (0.0 <= value < 1.0 or (closed and value == 1)):
        raise ConfigError(
            expected=f"{what} as a number in [0, 1{']' if closed else ')'}",
            got=repr(value),
            remedy=f"Use {what}=0.1.",
        )
    return float(value)


def check_whole(value: Any, what: str, least: int = 1) -> int:
    """Return a whole number from `least`.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(
            expected=f"{what} as a whole number from {least}",
            got=repr(value),
            remedy=f"Use {what}={max(least, 5)}.",
        )
    return int(value)
