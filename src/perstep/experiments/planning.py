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


def what_would_fit(
    round_ns: float, effort: Effort, *, intervals: int, shorter: Sequence[tuple[str, float]] = ()
) -> str:
    """What to say before measuring where the budget holds fewer rounds than intervals need; empty where it does.

    Args:
        round_ns: what a round takes.
        effort: with the budget.
        intervals: how many are shown together.
        shorter: options that make rounds shorter, such as `-n 8`, each with what a round of them takes.
    """
    fit = rounds_that_fit(round_ns, effort)
    if fit >= least_rounds(intervals):
        return ""

    def needed(ns: float) -> str:
        return span(MIN_ROUNDS_FOR_VERDICT * MARGIN * ns / 1e9)

    others = "".join(f"; {options} needs {needed(ns)}" for options, ns in shorter if ns < round_ns)
    return (
        f"the budget of {span(effort.budget_s)} holds {plural(int(fit), 'round')}, and intervals need "
        f"{least_rounds(intervals)}; {MIN_ROUNDS_FOR_VERDICT} rounds need {needed(round_ns)}{others}"
    )


def span(seconds: float) -> str:
    """A time to wait: `50 s`, `6 min`."""
    return f"{significant(seconds, 2)} s" if seconds < 120 else f"{seconds / 60:.0f} min"
