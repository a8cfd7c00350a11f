"""Numbers as people read them: one unit a column, no more digits than mean something."""

import re

from perstep._words import duration as duration
from perstep._words import percent as percent
from perstep._words import plural as plural
from perstep._words import printable as printable
from perstep._words import significant as significant
from perstep._words import time_unit as time_unit

_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|(?<=\])(?=[(\[:])")


def as_markdown(text: str) -> str:
    """Text that Markdown shows and does not obey: no HTML, no links or pictures. What is so already stays as it is."""
    return _MARKUP.sub(lambda match: "&lt;" if match[0] else "\\", printable(text))


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
