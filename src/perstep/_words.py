"""Numbers and counts in sentences, for every room: no exponents, no `1 rounds`.

`tests/test_messages.py` checks that every sentence of the package is written with these. Tables, Markdown and colours
are `perstep.report`'s.
"""

from collections.abc import Iterable
from math import isfinite

_UNITS = (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0))
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
"""ASCII's control characters, DEL and C1, as they are written in code: a terminal obeys them."""


def time_unit(values_ns: Iterable[float]) -> tuple[str, float]:
    """The unit for a column of durations, and how many nanoseconds it has: the largest in which the greatest is ≥ 1."""
    greatest = max((abs(value) for value in values_ns), default=0.0)
    for name, ns in _UNITS:
        if greatest >= ns:
            return name, ns
    return _UNITS[-1]


def significant(value: float, digits: int = 3) -> str:
    """A number with this many significant digits, without an exponent: 1234.5 → `1234`, 0.012345 → `0.0123`.

    Digits before the point are all shown. An infinity is `inf`.
    """
    if not isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])  # after rounding: 9.996 is 10.0, not 10.00
    return f"{value:.{max(digits - 1 - exponent, 0)}f}"


def short(value: float, digits: int = 6) -> str:
    """A number as it was given or counted: as `significant`, without zeros at its end: 2.0 → `2`, 1e6 → `1000000`."""
    text = significant(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(ns: float, digits: int = 3) -> str:
    """A single duration in a sentence: `281 µs`."""
    unit, size = time_unit([ns])
    return f"{significant(ns / size, digits)} {unit}"


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage: 0.1234 → `12.3 %`."""
    return f"{100 * share:.{digits}f} %"


def plural(count: float, one: str, many: str = "") -> str:
    """`1 round`, `2 rounds`, with thousands set apart; what is more than an s is given: `1 entry is`, `2 entries are`.

    Args:
        count: how many; a float is written as `short` does.
        one: what follows 1.
        many: what follows any other count; without it, `one` and an s.
    """
    number = short(count) if isinstance(count, float) else f"{count:,}"
    return f"{number} {one if count == 1 else many or one + 's'}"


def printable(text: str) -> str:
    """Text that no terminal obeys: control characters other than newline and tab are written by their numbers."""
    return text.translate(_CONTROLS)
