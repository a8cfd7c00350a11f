"""Numbers as people read them: one unit a column, no more digits than mean something."""

import re
from collections.abc import Iterable
from math import isfinite

_UNITS = (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0))

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
"""ASCII's control characters, DEL and C1, as they are written in code: a terminal obeys them."""
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|(?<=\])(?=[(\[:])")


def printable(text: str) -> str:
    """Text that no terminal obeys: control characters other than newline and tab are written by their numbers."""
    return text.translate(_CONTROLS)


def as_markdown(text: str) -> str:
    """Text that Markdown shows and does not obey: no HTML, no links or pictures. What is so already stays as it is."""
    return _MARKUP.sub(lambda match: "&lt;" if match[0] else "\\", printable(text))


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


def duration(ns: float, digits: int = 3) -> str:
    """A single duration in a sentence: `281 µs`."""
    unit, size = time_unit([ns])
    return f"{significant(ns / size, digits)} {unit}"


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage: 0.1234 → `12.3 %`."""
    return f"{100 * share:.{digits}f} %"


def signed_percent(share: float, digits: int = 1) -> str:
    """A change as a percentage with its sign: `+1.2 %`."""
    return f"{100 * share:+.{digits}f} %"


def interval(low: float | None, high: float | None, size: float = 1.0, digits: int = 3) -> str:
    """An interval in units of `size`, or a dash where there are too few rounds for one."""
    if low is None or high is None:
        return "–"
    return f"[{significant(low / size, digits)}, {significant(high / size, digits)}]"


def duration_interval(low_ns: float | None, high_ns: float | None, missing: str = "–") -> str:
    """The interval of a duration in a sentence, `[11.9 µs, 13.8 µs]`, or what stands where there is none."""
    return missing if low_ns is None or high_ns is None else f"[{duration(low_ns)}, {duration(high_ns)}]"


def overhead(estimate: float | None, low: float | None, high: float | None) -> str:
    """`overhead 2.9 % [1.0, 4.9]`; without an interval no number is named."""
    if estimate is None or low is None or high is None:
        return "overhead not resolved"
    return f"overhead {percent(estimate)} [{100 * low:.1f}, {100 * high:.1f}]"


def bar(share: float, width: int = 20) -> str:
    """A share as a bar of eighth blocks, `width` characters for 100 %."""
    eighths = round(max(0.0, min(share, 1.0)) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def plural(count: int, noun: str) -> str:
    """`1 round`, `2 rounds`, with thousands set apart."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
