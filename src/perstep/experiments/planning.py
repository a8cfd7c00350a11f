"""What a budget holds: how many rounds, how long they may be, and what is said before measuring where they are too few.

An interval needs about ten rounds and a verdict 20. How long a round takes is known from a few steps that are tried
before. Nothing is measured here.
"""

from collections.abc import Sequence
from math import inf

from perstep._words import plural, significant
from perstep.measure import Effort
from perstep.stats import MIN_ROUNDS_FOR_VERDICT, guarded_confidence, rounds_needed

MARGIN = 1.15
"""Rounds take a little longer than a few tried steps promise."""
_CONFIDENCE = guarded_confidence(0.95)


def rounds_that_fit(round_ns: float, effort: Effort) -> float:
    """How many rounds of this length the effort holds; inf where their number is given."""
    if effort.budget_s == inf:
        return inf
    return effort.budget_s * 1e9 / max(MARGIN * round_ns, 1.0)


def least_rounds(intervals: int) -> int:
    """The rounds without which none of the intervals that are shown together is there."""
    return rounds_needed(intervals, confidence=_CONFIDENCE)


def between_first(count: int) -> list[int]:
    """Indices in the order in which they may be left out so that the others stay evenly spread; never the two ends.

    >>> between_first(9)
    [1, 3, 5, 7, 2, 6, 4]
    """
    order, step, taken = [], 1, {0, count - 1}
    while step < count:
        odd = [index for index in range(step, count, 2 * step) if index not in taken]
        order += odd
        taken.update(odd)
        step *= 2
    return order


def subsets(count: int, droppable: Sequence[int], least: int) -> list[list[int]]:
    """Indices: all, and all but the first, the first two ... that may be left out, as long as `least` stay."""
    most = min(len(droppable), max(count - least, 0))
    return [[index for index in range(count) if index not in set(droppable[:gone])] for gone in range(most + 1)]


def what_would_fit(
    round_ns: float,
    effort: Effort,
    *,
    intervals: int = 1,
    least: int = 0,
    shorter: Sequence[tuple[str, float]] = (),
) -> str:
    """What to say before measuring where the budget holds fewer rounds than intervals need; empty where it does.

    Args:
        round_ns: what a round takes.
        effort: with the budget.
        intervals: how many are shown together.
        least: the rounds without which there are no intervals, where they need more than that.
        shorter: options that make rounds shorter, such as `-n 8`, each with what a round of them takes.
    """
    fit, least = rounds_that_fit(round_ns, effort), max(least, least_rounds(intervals))
    if fit >= least:
        return ""

    def needed(ns: float) -> str:
        return span(MIN_ROUNDS_FOR_VERDICT * MARGIN * ns / 1e9)

    others = "".join(f"; {options} needs {needed(ns)}" for options, ns in shorter if ns < round_ns)
    return (
        f"the budget of {span(effort.budget_s)} holds {plural(int(fit), 'round')}, and intervals need "
        f"{least}; {MIN_ROUNDS_FOR_VERDICT} rounds need {needed(round_ns)}{others}"
    )


def span(seconds: float) -> str:
    """A time to wait: `50 s`, `6 min`."""
    return f"{significant(seconds, 2)} s" if seconds < 120 else f"{seconds / 60:.0f} min"
