"""Comparisons with a known answer: how often a verdict was given, and whether it was right."""

from collections.abc import Sequence
from operator import attrgetter

import msgspec
import numpy as np

from perstep.experiments.compare.api import Comparison
from perstep.report import Column
from perstep.report.format import percent, significant

THRESHOLD = 0.003
"""T of the comparisons: small enough that a true 1 % cannot be called the same."""


class Detection(msgspec.Struct, frozen=True):
    """Comparisons with a known true change.

    Attributes:
        true_change: 0 for identical programs.
        tries: comparisons made.
        seconds_each: the budget of each.
        slower: how many said `slower`.
        faster: how many said `faster`.
        same: how many said `same`.
        covered: how many intervals held the true change.
        median_error: of the estimate, absolute.
        median_detectable: median of the minimum detectable effects, None where none had an interval.
    """

    true_change: float
    tries: int
    seconds_each: float
    slower: int
    faster: int
    same: int
    covered: int
    median_error: float
    median_detectable: float | None


def detection(true_change: float, seconds_each: float, comparisons: Sequence[Comparison]) -> Detection:
    """What comparisons of an arm `candidate` with another made of a known change.

    Args:
        true_change: of the candidate.
        seconds_each: the budget of each.
        comparisons: one or more.
    """
    arms = [comparison["candidate"].wall for comparison in comparisons]
    ends = [(arm.ci_low, arm.ci_high) for arm in arms]
    verdicts = [arm.verdict.split(" (")[0] for arm in arms]
    detectable = [arm.mde for arm in arms if arm.mde is not None]
    errors = [abs(arm.change - true_change) for arm in arms if arm.change is not None]
    return Detection(
        true_change=true_change,
        tries=len(arms),
        seconds_each=seconds_each,
        slower=verdicts.count("slower"),
        faster=verdicts.count("faster"),
        same=verdicts.count("same"),
        covered=sum(low is not None and high is not None and low <= true_change <= high for low, high in ends),
        median_error=float(np.median(errors)) if errors else float("nan"),
        median_detectable=float(np.median(detectable)) if detectable else None,
    )


def _true_words(change: float) -> str:
    return f"{change:+.0%}" if change else "identical"


DETECTION_COLUMNS: list[Column[Detection]] = [
    Column("true change", lambda d: d.true_change, _true_words, "true_change", words=True),
    Column("tries", lambda d: d.tries, name="tries"),
    Column("each", lambda d: d.seconds_each, lambda seconds: significant(seconds, 2), "seconds_each", "s"),
    *(Column[Detection](verdict, attrgetter(verdict), name=verdict) for verdict in ("slower", "faster", "same")),
    Column("interval includes it", lambda d: d.covered, name="covered"),
    Column("error", lambda d: d.median_error, lambda error: percent(error, 2), "median_error"),
    Column("detectable", lambda d: d.median_detectable, lambda change: percent(change, 2), "median_detectable"),
]
