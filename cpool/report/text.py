"""Numbers for people: percent, points, bytes, counts; what was not measured is a dash."""

from cpool.report.results import Stat

__all__ = ["MISSING", "count", "plain", "points", "size", "with_deviation"]

MISSING = "—"


def with_deviation(stat: Stat | None, scale: float = 100.0, digits: int = 2) -> str:
    """Write mean ± sample deviation, by default of a fraction in percent.

    >>> with_deviation(Stat(0.75, 0.0123, 3)), with_deviation(Stat(0.75, None, 1))
    ('75.00 ± 1.23', '75.00')
    """
    if stat is None:
        return MISSING
    spread = "" if stat.deviation is None else f" ± {scale * stat.deviation:.{digits}f}"
    return f"{_number(scale * stat.mean, digits)}{spread}"


def points(stat: Stat | None, digits: int = 2) -> str:
    """Write a difference of fractions in percentage points.

    >>> points(Stat(-0.0125, None, 1)), points(None)
    ('−1.25', '—')
    """
    return MISSING if stat is None else _number(100 * stat.mean, digits)


def size(number: int | float | None, digits: int = 3) -> str:
    """Write a number of bytes with the unit that leaves `digits` significant ones or a few more.

    >>> size(64), size(5120), size(2_500_000), size(None)
    ('64 B', '5.12 kB', '2.50 MB', '—')
    """
    if number is None:
        return MISSING
    return _scaled(number, ["B", "kB", "MB", "GB", "TB"], " ", digits)


def count(number: int | float | None) -> str:
    """Write a number of parameters or operations.

    >>> count(640), count(36_864), count(1_250_000), count(None)
    ('640', '36.9k', '1.25M', '—')
    """
    return MISSING if number is None else _scaled(number, ["", "k", "M", "G", "T"], "")


def plain(number: int | float | None) -> str:
    """Write a duration or another number with about three digits.

    >>> plain(0.0123), plain(4.5678), plain(1234.5), plain(None)
    ('0.012', '4.57', '1,234', '—')
    """
    if number is None:
        return MISSING
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return _number(number, 1 if abs(number) >= 10 else 2 if abs(number) >= 1 else 3)


def _number(value: int | float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    return f"−{text}" if value < 0 and float(text) else text  # never "−0.00"


def _scaled(number: int | float, units: list[str], gap: str, digits: int = 3) -> str:
    scale = 0
    while abs(number) >= 999.5 and scale < len(units) - 1:
        number, scale = number / 1000, scale + 1
    before = 3 if abs(number) >= 99.95 else 2 if abs(number) >= 9.995 else 1
    return f"{number:.{max(0, digits - before) if scale else 0}f}{gap}{units[scale]}"
