"""Options that several experiments share, and how they are written on a command line."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, ClassVar

from cyclopts import Parameter, Token

from perstep._words import plural
from perstep.errors import InputError
from perstep.measure import Effort

_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-zµ]*)\s*")
_PERCENT = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*")
_RANGE = re.compile(r"\s*([0-9]{1,12})\s*(?:-\s*([0-9]{1,12})\s*(?:([*x+])\s*([0-9]{1,12})\s*)?)?")
MOST_THREADS_A_PROCESSOR = 8
"""More threads take turns: a warning says so, and a thousand on two processors never end."""
FAST_AT_MOST_S = 8.0
"""What `--fast` may take, without a --budget, where its 3 s hold too few rounds for intervals."""
MAX_COUNTS = 10_000  # a longer list is a slip of the finger: 1-1000000000 would fill the memory


def parse_seconds(text: str) -> float:
    """`30s`, `1.5m`, `200ms`, `50us` or a bare number of seconds.

    Raises:
        ValueError: anything else, with what would be right.
    """
    match = _DURATION.fullmatch(text.lower())
    if match is None or match[2] not in _SECONDS or float(match[1]) <= 0:
        raise ValueError(f"{text!r} is not a duration; write 30s, 500ms or 2m")
    return float(match[1]) * _SECONDS[match[2]]


def parse_share(text: str) -> float:
    """`1%` or `0.01`, both a hundredth.

    Raises:
        ValueError: anything else, with what would be right.
    """
    match = _PERCENT.fullmatch(text)
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 1:
        raise ValueError(f"{text!r} is not a share between 0 and 1; write 1% or 0.01")
    return value


def parse_counts(text: str) -> tuple[int, ...]:
    """`1,2,4`, a range such as `8-1024*2` (doubling) or `8-64+8` (`8-10` has all three), or both: `1,8-64*2`.

    `x` may stand for `*`, which some shells (zsh) take for a file name's.

    Returns:
        The numbers in ascending order, each once. The last of a range is among them only if a step falls on it.

    Raises:
        ValueError: anything else, with what would be right.
    """
    counts: set[int] = set()
    for item in text.split(","):
        counts.update(_parse_range(item, text))
        if len(counts) > MAX_COUNTS:
            raise ValueError(f"{text!r} has more than {MAX_COUNTS:,} numbers; take larger steps, such as 8-1024*2")
    return tuple(sorted(counts))


def _parse_range(item: str, text: str) -> range | list[int]:
    match = _RANGE.fullmatch(item)
    if match is None:
        raise ValueError(f"{text!r} is not a list of counts; write 64, a list 1,2,4 or a range 8-1024*2 or 8-64+8")
    first, last, step = int(match[1]), int(match[2] or match[1]), int(match[4] or 1)
    if last < first:
        raise ValueError(f"the range {item.strip()!r} ends before it begins; write {last}-{first}")
    if match[3] not in ("*", "x"):
        if step == 0:
            raise ValueError(f"the range {item.strip()!r} does not advance; write {first}-{last}+1")
        return range(first, last + 1, step)[: MAX_COUNTS + 1]
    if step < 2 or first == 0:
        raise ValueError(f"the range {item.strip()!r} does not advance; write {max(first, 1)}-{last}*2")
    values = [first]
    while values[-1] * step <= last:
        values.append(values[-1] * step)
    return values


def format_counts(counts: Sequence[int]) -> str:
    """Counts as a list that `parse_counts` reads again: `8,16,32`."""
    return ",".join(map(str, counts))


def _convert_counts(_type: object, tokens: Sequence[Token]) -> tuple[int, ...]:
    return parse_counts(",".join(token.value for token in tokens))


def _convert_seconds(_type: object, tokens: Sequence[Token]) -> float:
    return parse_seconds(tokens[0].value)


def _convert_share(_type: object, tokens: Sequence[Token]) -> float:
    return parse_share(tokens[0].value)


Seconds = Annotated[float, Parameter(converter=_convert_seconds, metavar="DURATION")]
Share = Annotated[float, Parameter(converter=_convert_share, metavar="PERCENT")]
Counts = Annotated[
    tuple[int, ...], Parameter(converter=_convert_counts, n_tokens=1, accepts_keys=False, negative="", metavar="RANGE")
]
"""Several counts, written as `parse_counts` reads them; ascending, each once. Zero is allowed: see `at_least`."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to measure; the fields are options of every command that measures.

    Attributes:
        least: option -> the least value it may have, of this experiment or another one.
    """

    least: ClassVar[dict[str, int]] = {
        "batch": 1, "complexity": 1, "context": 1, "image_size": 1, "layers": 1, "max_depth": 0, "new_tokens": 1,
        "num_active_blocks": 1, "past": 0, "prompt_tokens": 1, "quality_tokens": 0, "seq": 1,
    }  # fmt: skip

    threads: Annotated[int, Parameter(name=["-t", "--threads"])] = 1
    """Threads of the matrix library."""

    seed: int = 0
    """Random seed for prompts, sampling and arm order."""

    rounds: int | None = None
    """Stop after this number of rounds. A verdict needs at least 20 rounds; an interval needs at least 7."""

    budget: Seconds | None = None
    """Begin no new round after this time, e.g. 30s. [default: 30s; --fast 3s, up to 8s
    where steps are long; --rigorous 5m]"""

    precision: Share | None = None
    """Stop when the widest interval is ± this share of the step. [default: 0.5%; --fast 2%; --rigorous 0.2%]"""

    fast: Annotated[bool, Parameter(negative="")] = False
    """Measure for seconds instead of half a minute; intervals are wider."""

    rigorous: Annotated[bool, Parameter(negative="")] = False
    """Measure for minutes instead of half a minute; intervals are narrower."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name, minimum in self.least.items():  # here, so that a sweep refuses them before its first cell
            given = getattr(self, name, None)
            if given is not None:
                at_least(minimum, **{name: min(given, default=minimum) if isinstance(given, tuple) else given})
        most = MOST_THREADS_A_PROCESSOR * (os.cpu_count() or 1)
        at_least(1, threads=self.threads)
        if self.threads > most:
            raise InputError(
                f"--threads {self.threads}: at most {most} on this machine, which has "
                f"{plural(os.cpu_count() or 1, 'processor')}"
            )

    def effort(self) -> Effort:
        """The options as an effort.

        Raises:
            InputError: `fast` and `rigorous` together, or an option out of its range.
        """
        if self.fast and self.rigorous:
            raise InputError("--fast and --rigorous exclude each other; give one of them")
        presets = (3.0, 0.02) if self.fast else (300.0, 0.002) if self.rigorous else (30.0, 0.005)
        # A number of rounds is measured, however long that takes and however narrow the intervals are before.
        budget_s, precision = presets if self.rounds is None else (inf, None)
        return Effort(
            budget_s=budget_s if self.budget is None else self.budget,
            precision=precision if self.precision is None else self.precision,
            max_rounds=self.rounds,
        )


def check_seed(seed: int) -> None:
    """Check that NumPy and torch both take a seed.

    Raises:
        InputError: it is below 0 or has more than 64 bits.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"--seed {seed}: the seed must be a whole number from 0 to 2**64 - 1")


def at_least(minimum: int, **options: int) -> None:
    """Check that counts are counts.

    Raises:
        InputError: one is below `minimum`, by its name on the command line.
    """
    for name, value in options.items():
        if value < minimum:
            raise InputError(f"--{name.replace('_', '-')} {value}: it must be at least {minimum}")
