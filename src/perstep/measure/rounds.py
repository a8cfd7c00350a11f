"""The loop over rounds: measure one, store it, look at the width of the intervals, go on or stop.

It stops on precision, on the budget or at a number of rounds. It never stops because a difference became significant:
that turns chance into false alarms (law "stop on precision").
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from perstep.errors import InputError
from perstep.measure.clock import Clock
from perstep.stats import FIRST_LOOK, find_steady_state, next_look, should_stop

Sample = TypeVar("Sample")

LONG_ROUND = 0.25
"""A round that takes more than this share of the budget must end in it."""

Progress = Callable[[float, str], None]
"""Receives the finished share of the work (0 to 1) and a description of the current work."""


@dataclass(frozen=True)
class Effort:
    """When to stop measuring.

    Attributes:
        precision: the half-width at which to stop, as a fraction of the step (0.005 is 0.5 %); None never stops on it.
        budget_s: no round begins after this time, even if `precision` is not reached; one that takes more than a
            quarter of it does not begin either if the longest so far would end after it.
        max_rounds: the number of rounds after which to stop in any case, or None.

    Raises:
        InputError: one of them is out of its range.
    """

    precision: float | None = 0.005
    budget_s: float = 30.0
    max_rounds: int | None = None

    def __post_init__(self) -> None:
        if self.precision is not None and not 0 < self.precision < 1:
            raise InputError(f"precision {self.precision}: it must lie between 0 and 1, such as 0.01 for 1 %")
        if not self.budget_s > 0:
            raise InputError(f"budget {self.budget_s} s: it must be above 0")
        if self.max_rounds is not None and self.max_rounds < 1:
            raise InputError(f"rounds {self.max_rounds}: at least 1 round is needed")


@dataclass(frozen=True)
class Resolved:
    """How narrow the intervals are after the rounds so far.

    Attributes:
        half_width: that of the widest interval shown, as a fraction of the step; inf while an interval is missing.
        merged_rounds: the number of independent values behind it: autocorrelated rounds count as one.
    """

    half_width: float
    merged_rounds: int


def run_rounds(
    measure: Callable[[int], Sample],
    keep: Callable[[Sample], None],
    resolved: Callable[[], Resolved],
    *,
    effort: Effort,
    clock: Clock,
    first_round: int = 0,
    progress: Progress | None = None,
) -> str:
    """Measure rounds until the effort is spent; return the reason for the end.

    Args:
        measure: measures the round with this number and returns its sample.
        keep: stores a sample before the next round is measured.
        resolved: evaluates all stored rounds; called at 20 rounds and whenever there are half as many again.
        effort: when to stop.
        clock: the clock of the budget.
        first_round: the number of rounds that a resumed run already has.
        progress: called before each round.
    """
    began_ns = clock.now()
    number = first_round
    look_at = next_look(first_round - 1) if first_round else FIRST_LOOK
    now: Resolved | None = None
    longest_s = 0.0
    while effort.max_rounds is None or number < effort.max_rounds:
        looking = effort.precision is not None and number >= look_at
        if looking:
            now, look_at = resolved(), next_look(number)
        elapsed_s = (clock.now() - began_ns) / 1e9
        if number > first_round or looking:
            stop = should_stop(
                now.half_width if looking and now else None,
                precision=effort.precision or 1.0,
                merged_rounds=now.merged_rounds if now else 0,
                elapsed_s=elapsed_s + (longest_s if longest_s > LONG_ROUND * effort.budget_s else 0.0),
                budget_s=effort.budget_s,
            )
            if stop is not None:
                return str(stop)
        if progress is not None:
            progress(_share_done(elapsed_s, number, now, effort), f"round {number + 1}")
        begun_ns = clock.now()
        keep(measure(number))
        longest_s = max(longest_s, (clock.now() - begun_ns) / 1e9)
        number += 1
    return "rounds measured"


def _share_done(elapsed_s: float, rounds: int, now: Resolved | None, effort: Effort) -> float:
    """The finished share of the work. A half-width is assumed to shrink with the square root of the rounds."""
    shares = [elapsed_s / effort.budget_s]
    if effort.max_rounds:
        shares.append(rounds / effort.max_rounds)
    if effort.precision and now is not None and now.half_width > 0:
        shares.append((effort.precision / now.half_width) ** 2)
    return min(max(shares), 1.0)


@contextmanager
def collector_off() -> Iterator[None]:
    """Collect garbage once, then switch the collector off until the end; restore its previous state.

    A collection inside a step would be counted as time of the part in which it happens.
    """
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class WarmUp:
    """How the warm-up ended.

    Attributes:
        rounds: number of unrecorded rounds that were run.
        steady: whether the rule was met before the limit.
        rule: the rule, in words.
        reason: what the last two windows showed, in words.
    """

    rounds: int
    steady: bool
    rule: str
    reason: str


WINDOW = 4
"""Rounds in one window of the warm-up."""


def warm_up(one_round: Callable[[], None], clock: Clock, *, limit_s: float, max_rounds: int = 100) -> WarmUp:
    """Run unrecorded rounds until the medians of two successive windows agree, or a limit is met."""
    durations_ns: list[int] = []
    began_ns = clock.now()
    while True:
        before_ns = clock.now()
        one_round()
        durations_ns.append(clock.now() - before_ns)
        rounds = len(durations_ns)
        judged = find_steady_state(durations_ns[-2 * WINDOW :], window=WINDOW)
        steady = judged.steady and judged.dropped == 0
        late = (clock.now() - began_ns) / 1e9 >= limit_s or rounds >= max_rounds
        if (rounds >= 2 * WINDOW and rounds % WINDOW == 0 and steady) or late:
            rule = f"medians of two successive windows of {WINDOW} rounds agree, within {limit_s:.1f} s"
            return WarmUp(rounds, steady, rule, judged.reason)
