"""The change between two arms that took turns, and the verdict read off its interval.

Each round gives one ratio candidate / reference. The estimate is the median of the ratios, taken in logarithms. Its
interval is exact (law "intervals are exact") and needs independent rounds, so autocorrelated rounds are first merged
with their neighbours. Where several changes are shown, all intervals hold together (Bonferroni).

The verdict comes from the interval alone, with no p-value. Wholly inside ±T it is "same"; else, without 0, "faster" or
"slower"; else "not resolved", with the detectable change. Ties and zero durations stay in and are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from math import expm1, inf, isfinite
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural, short
from perstep.errors import InputError
from perstep.stats.merging import Merged, guarded_confidence, merge_until_independent, merged_interval
from perstep.stats.order import MedianInterval, median, rounds_needed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MIN_ROUNDS_FOR_VERDICT = 20
"""Fewer rounds give no verdict, whatever their interval."""
MDE_POWER = 0.8
# The sign test is asked for 85 %. Some tries are merged further by chance, which leaves 80 % (docs/statistics.md).
_MDE_POWER_UNMERGED = 0.85


class Verdict(StrEnum):
    """The verdicts that an interval can have."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    NOT_RESOLVED = "not resolved"
    INVALID = "invalid"

    def within(self, threshold: float) -> str:
        """As users see it: `same` with its T."""
        return f"{self} (within ±{short(100 * threshold)} %)" if self is Verdict.SAME else str(self)


@dataclass(frozen=True, slots=True)
class Change:
    """A relative change of cost, candidate against reference (0.031 = 3.1 % slower).

    Attributes:
        estimate: exp(median log-ratio) - 1; inf where the reference took no time; None if invalid.
        ci_low: lower end of the interval; None without an interval.
        ci_high: upper end; None without an interval.
        confidence: confidence of all intervals shown together, such as 0.95.
        achieved: confidence of this one interval by the sign test alone; None without an interval.
        rounds: number of rounds measured, before merging.
        merged_by: number of adjacent rounds merged into one value.
        autocorrelation: lag-1 autocorrelation that remains between those values.
        ties: number of rounds in which both arms took exactly the same time.
        mde: detectable change (`minimum_detectable_effect`); None without an interval.
        threshold: T of `same (within +-T)`.
        verdict: from the interval.
        reason: the reason for the verdict.
        withheld: why interval and verdict are withheld although there were enough rounds; empty otherwise.
    """

    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    confidence: float
    achieved: float | None
    rounds: int
    merged_by: int
    autocorrelation: float
    ties: int
    mde: float | None
    threshold: float
    verdict: Verdict
    reason: str
    withheld: str = ""

    @property
    def merged_rounds(self) -> int:
        """Number of independent values behind the interval."""
        return self.rounds // self.merged_by

    @property
    def half_width(self) -> float:
        """Half the interval's width; inf without an interval."""
        if self.ci_low is None or self.ci_high is None:
            return inf
        return (self.ci_high - self.ci_low) / 2

    @property
    def label(self) -> str:
        """The verdict as it is printed."""
        why = self.reason if self.verdict is Verdict.INVALID else self.withheld
        return f"{self.verdict} ({why})" if why else self.verdict.within(self.threshold)


def paired_changes(
    costs: ArrayLike,
    *,
    reference: int = 0,
    comparisons: int | None = None,
    confidence: float = 0.95,
    threshold: float = 0.01,
) -> dict[int, Change]:
    """The change of every arm against the reference arm; all intervals hold together (Bonferroni).

    Args:
        costs: [rounds, arms] cost of each arm in each round, in one unit, none negative.
        reference: column of the reference arm.
        comparisons: number of changes shown together, if more than these.
        confidence: confidence of all intervals together.
        threshold: T of `same (within +-T)`.

    Returns:
        Column -> change, for every column but the reference.

    Raises:
        InputError: if the costs are of another shape, not finite or negative.
    """
    x = np.asarray(costs, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] < 2 or not 0 <= reference < x.shape[1]:
        raise InputError(f"costs of shape {x.shape}, reference {reference}; [rounds, arms >= 2] are needed")
    others = [arm for arm in range(x.shape[1]) if arm != reference]
    return {
        arm: paired_change(
            x[:, reference],
            x[:, arm],
            comparisons=comparisons or len(others),
            confidence=confidence,
            threshold=threshold,
        )
        for arm in others
    }


def paired_change(
    reference: ArrayLike,
    candidate: ArrayLike,
    *,
    comparisons: int = 1,
    confidence: float = 0.95,
    threshold: float = 0.01,
) -> Change:
    """The change from reference to candidate.

    Args:
        reference: [rounds] cost of the reference in each round, none negative.
        candidate: [rounds] cost of the candidate in the same rounds and unit.
        comparisons: number of changes shown together (Bonferroni).
        confidence: confidence of all their intervals together.
        threshold: T of `same (within +-T)`.

    Raises:
        InputError: if the costs are of different shapes, not finite or negative.
    """
    costs = _pair(reference, candidate)
    if not 0 <= threshold < 1:
        raise InputError(f"threshold {threshold}; it is a fraction such as 0.01")
    rounds = costs.shape[0]
    merged = merge_until_independent(
        costs, lambda c: log_ratios(c[:, 0], c[:, 1]), comparisons=comparisons, confidence=confidence
    )
    interval = merged_interval(merged, comparisons=comparisons, confidence=confidence)
    ties = int((costs[:, 0] == costs[:, 1]).sum())
    low, high = (_relative(interval.low), _relative(interval.high)) if interval else (None, None)
    verdict, reason = read_interval(low, high, rounds, threshold)
    if interval is None:
        reason = _missing(merged, rounds_needed(comparisons, confidence=guarded_confidence(confidence)))
    elif not merged.independent:
        reason += f"; {_autocorrelation(merged)}, so the widest interval is shown"
    no_time = int((costs == 0).all(axis=1).sum())
    if 2 * no_time > rounds:  # the clock saw neither arm; that does not mean that they are the same
        verdict = Verdict.NOT_RESOLVED
        reason = f"the clock saw no time pass in {no_time} of {plural(rounds, 'round')}; let a round do more work"
    elif 2 * ties > rounds:
        reason += f"; both arms took exactly the same time in {ties} of {plural(rounds, 'round')}"
    return Change(
        estimate=_relative(median(merged.values)),
        ci_low=low,
        ci_high=high,
        confidence=confidence,
        achieved=interval.confidence if interval else None,
        rounds=rounds,
        merged_by=merged.merged_by,
        autocorrelation=merged.autocorrelation,
        ties=ties,
        mde=minimum_detectable_effect(merged.values, interval) if interval else None,
        threshold=threshold,
        verdict=verdict,
        reason=reason,
    )


def invalid_change(reason: str, *, rounds: int = 0, confidence: float = 0.95, threshold: float = 0.01) -> Change:
    """The change of an invalid comparison: it has no numbers.

    Args:
        reason: why, shown in brackets after the verdict.
        rounds: number of rounds measured.
        confidence: the confidence that was asked for.
        threshold: the threshold that was asked for.
    """
    return Change(None, None, None, confidence, None, rounds, 1, 0.0, 0, None, threshold, Verdict.INVALID, reason)


def withhold(change: Change, reason: str) -> Change:
    """Remove interval and verdict from a change whose rounds do not meet their assumptions.

    Args:
        change: the change; its estimate was measured and stays.
        reason: why, shown in brackets after `not resolved`; empty leaves the change as it is.
    """
    if not reason or change.verdict is Verdict.INVALID:
        return change
    return replace(
        change,
        ci_low=None,
        ci_high=None,
        achieved=None,
        mde=None,
        verdict=Verdict.NOT_RESOLVED,
        reason=reason,
        withheld=reason,
    )


def log_ratios(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(candidate / reference). Two zeros are a tie (0); a single zero gives -inf or inf.

    Args:
        reference: [rounds], none negative.
        candidate: [rounds], none negative.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: NDArray[np.float64] = np.log(candidate) - np.log(reference)
    ratios[(reference == 0) & (candidate == 0)] = 0.0
    return ratios


def minimum_detectable_effect(log_ratio: ArrayLike, interval: MedianInterval) -> float:
    """The smallest relative change that this number of rounds in this noise resolves in 80 % of tries.

    After a shift d the interval excludes 0 if fewer than `rank` of n ratios fall below 0. That has the probability
    P[Bin(n, F(-d)) < rank], where F is the distribution of the noise about its median. It is solved for 85 %, since
    some tries are merged further. The result is p = F(-d), and d is half the distance between the sample's p- and
    (1 - p)-quantile. The sample does not support p below 1/n; there the distance at 1/n is extended as in a normal
    distribution.

    Args:
        log_ratio: [n] independent log-ratios.
        interval: their interval, which holds the rank.

    Returns:
        exp(d) - 1; inf where the noise has no finite quantile there.
    """
    x = np.sort(np.asarray(log_ratio, dtype=np.float64))
    p = _probability_below(x.size, interval.rank)
    supported = max(p, 1 / x.size)
    stretch = 1.0 if supported == p else _normal_quantile(p) / _normal_quantile(supported)
    low, high = _quantile(x, supported), _quantile(x, 1 - supported)
    if not (isfinite(low) and isfinite(high)):
        return inf
    return _relative(stretch * (high - low) / 2)


@lru_cache(maxsize=4096)
def _probability_below(n: int, rank: int) -> float:
    """The p with P[Bin(n, p) < rank] = 85 %."""
    from scipy.special import bdtri

    return float(bdtri(rank - 1, n, _MDE_POWER_UNMERGED))


def _normal_quantile(p: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(p))


def _quantile(ordered: NDArray[np.float64], p: float) -> float:
    """Hazen's quantile (the k-th of n values stands at (k - 1/2) / n); infinite neighbours stay infinite."""
    position = min(max(p * ordered.size - 0.5, 0.0), ordered.size - 1.0)
    below = int(position)
    low, high = float(ordered[below]), float(ordered[min(below + 1, ordered.size - 1)])
    fraction = position - below
    if fraction == 0 or low == high:
        return low
    return low + fraction * (high - low)


def read_interval(low: float | None, high: float | None, rounds: int, threshold: float) -> tuple[Verdict, str]:
    """The verdict of an interval, and the reason.

    Args:
        low: lower end; None without an interval.
        high: upper end; None without an interval.
        rounds: number of rounds measured.
        threshold: T of `same (within +-T)`.
    """
    if low is None or high is None:
        return Verdict.NOT_RESOLVED, "no interval"
    if rounds < MIN_ROUNDS_FOR_VERDICT:
        return Verdict.NOT_RESOLVED, f"{plural(rounds, 'round')}; a verdict needs {MIN_ROUNDS_FOR_VERDICT}"
    if -threshold <= low and high <= threshold:
        return Verdict.SAME, f"the interval lies within ±{short(100 * threshold)} %"
    if high < 0:
        return Verdict.FASTER, "the interval lies below 0"
    if low > 0:
        return Verdict.SLOWER, "the interval lies above 0"
    return Verdict.NOT_RESOLVED, f"the interval includes 0 and reaches beyond ±{short(100 * threshold)} %"


def _missing(merged: Merged, needed: int) -> str:
    """The reason why there is no interval."""
    if merged.values.size < needed:
        return f"{plural(merged.values.size, 'round')}; an interval needs {needed}"
    return f"{_autocorrelation(merged)}; measure longer"


def _autocorrelation(merged: Merged) -> str:
    by = f" after merging by {merged.merged_by}" if merged.merged_by > 1 else ""
    return f"rounds are autocorrelated (lag-1 {merged.autocorrelation:.2f}{by})"


def _relative(log_ratio: float) -> float:
    return expm1(log_ratio) if log_ratio < 700 else inf


def _pair(reference: ArrayLike, candidate: ArrayLike) -> NDArray[np.float64]:
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise InputError(f"costs of shapes {a.shape} and {b.shape}; one value per round and arm is needed")
    costs = np.stack([a, b], axis=1)
    if not np.isfinite(costs).all() or (costs < 0).any():
        raise InputError("a cost is negative or not finite; every round must have a duration of each arm")
    return costs
