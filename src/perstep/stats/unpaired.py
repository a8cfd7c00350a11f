"""The change between two runs that did not take turns, and the verdict read off its interval.

An event that happened to one run alone (another hour, another memory layout) is in the change, but the rounds of
neither run show it. The interval therefore adds the spread of runs of the same code (law "runs of one code differ"):

    half-width² = within² + (t_{df, 1 - α/2k} · s · √2)²        in logarithms,

`within` from the sign test on the rounds of each run, s and df from A/A runs (`pooled_spread`),
k changes shown together. s holds the noise of rounds as well; it is counted twice, on the safe
side. Without A/A runs there is no interval. Estimates and verdicts are those of `paired.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, hypot, inf, log, sqrt
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.errors import InputError
from perstep.stats.merging import guarded_confidence, merge_until_independent
from perstep.stats.order import median, median_interval, rounds_needed
from perstep.stats.paired import MDE_POWER, Verdict, read_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

MIN_SPREAD_DF = 3
"""Degrees of freedom below which the spread of runs is not used: t is 12.7 at 1 and 4.3 at 2."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How much runs of the same code differ.

    Attributes:
        sd_log: standard deviation of the logarithm of a run's estimate; 0.01 is about 1 %.
        df: degrees of freedom behind it: runs minus groups of runs.
    """

    sd_log: float
    df: int


@dataclass(frozen=True, slots=True)
class RunCost:
    """One cost in one run.

    Attributes:
        estimate: the cost per step, the mean over positions of medians over rounds.
        rounds: [rounds] the cost of each round, in any multiple of that unit.
        ns: [rounds, passes, positions] what both were made of, for who wants to draw it; None where it was let go.
    """

    estimate: float
    rounds: NDArray[np.float64]
    ns: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class RunInterval:
    """The interval of a run's estimate from its own rounds alone.

    Attributes:
        low: lower end, in the unit of the estimate.
        high: upper end.
        merged_by: adjacent rounds that make one value of it.
    """

    low: float
    high: float
    merged_by: int


@dataclass(frozen=True, slots=True)
class UnpairedChange:
    """A relative change of cost between two runs, candidate against reference (0.031 = 3.1 % slower).

    Attributes:
        estimate: candidate over reference, minus 1; None where one of them took no time.
        ci_low: lower end of the interval; None without an interval.
        ci_high: upper end; None without an interval.
        mde: smallest change that these two runs would have resolved in 80 % of tries; None without an interval.
        reference: the reference's own interval, or None with too few rounds.
        candidate: the candidate's own interval, or None with too few rounds.
        verdict: read off the interval.
        reason: why, in words.
        threshold: T of `same (within +-T)`.
    """

    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    mde: float | None
    reference: RunInterval | None
    candidate: RunInterval | None
    verdict: Verdict
    reason: str
    threshold: float

    @property
    def label(self) -> str:
        """The verdict as it is printed."""
        return self.verdict.within(self.threshold)


def pooled_spread(groups: Sequence[ArrayLike]) -> Spread | None:
    """The spread of runs within groups of identical runs: s² = Σ_g Σ_i (log x_gi - mean_g)² / Σ_g (n_g - 1).

    Args:
        groups: estimates above 0, [runs] for each group; groups of one run tell nothing.

    Returns:
        The spread, or None where no group has two runs.

    Raises:
        InputError: an estimate is not above 0 or not finite.
    """
    squares, df = 0.0, 0
    for group in groups:
        x = np.asarray(group, dtype=np.float64)
        if x.ndim != 1 or not np.isfinite(x).all() or (x <= 0).any():
            raise InputError("a run's estimate is not above 0; only costs that took time have a spread")
        if x.size > 1:
            logs = np.log(x)
            squares += float(((logs - logs.mean()) ** 2).sum())
            df += x.size - 1
    return Spread(sqrt(squares / df), df) if df else None


def round_levels(x_ns: ArrayLike) -> NDArray[np.float64]:
    """How slow each round was: the median over steps of step / typical step at its position, weighted by the latter.

    A burst that hits fewer than half of a round's costs moves neither this level nor the estimate of the run. It would
    dominate the sum of a round. The weights let rare expensive positions count by their cost.

    Args:
        x_ns: [rounds, passes, positions] durations, none negative.

    Returns:
        [rounds], about 1; zeros where the cost takes no time at any position in most passes.
    """
    x = np.asarray(x_ns, dtype=np.float64)
    typical = np.median(x.reshape(-1, x.shape[-1]), axis=0)
    seen = typical > 0
    if not seen.any():
        return np.zeros(x.shape[0])
    ratios = (x[:, :, seen] / typical[seen]).reshape(x.shape[0], -1)
    order = np.argsort(ratios, axis=1)
    weights = np.cumsum(np.tile(typical[seen], x.shape[1])[order], axis=1)
    middle = (weights >= weights[:, -1:] / 2).argmax(axis=1)
    return np.asarray(np.sort(ratios, axis=1)[np.arange(x.shape[0]), middle], dtype=np.float64)


def run_interval(cost: RunCost, *, comparisons: int = 1, confidence: float = 0.95) -> RunInterval | None:
    """The interval of a run's estimate from its own rounds: the sign test, scaled from the rounds' median to it.

    Rounds that are still autocorrelated when merging has to end are not refused here: the
    run drifts, drift makes runs differ, and their spread holds it.

    Args:
        cost: of the run.
        comparisons: how many costs are shown together (Bonferroni).
        confidence: confidence of all their intervals together.

    Returns:
        The interval; None with fewer rounds than it needs, or a median of 0.

    Raises:
        InputError: the rounds are not one row of finite numbers, none negative.
    """
    x = np.asarray(cost.rounds, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all() or (x < 0).any():
        raise InputError("costs of rounds must be one row of finite numbers, none of them negative")
    merged = merge_until_independent(x[:, None], lambda c: c[:, 0], comparisons=comparisons, confidence=confidence)
    middle = median(merged.values)
    interval = median_interval(merged.values, comparisons=comparisons, confidence=guarded_confidence(confidence))
    if interval is None or middle == 0:
        return None
    scale = cost.estimate / middle
    return RunInterval(interval.low * scale, interval.high * scale, merged.merged_by)


def unpaired_change(
    reference: RunCost,
    candidate: RunCost,
    spread: Spread | None,
    *,
    comparisons: int = 1,
    confidence: float = 0.95,
    threshold: float = 0.01,
) -> UnpairedChange:
    """The change from one run to another.

    Args:
        reference: the cost in the one run.
        candidate: the same cost in the other run, in the same unit.
        spread: of runs of the same code, from others than these two; None if nothing is known.
        comparisons: how many changes are shown together (Bonferroni).
        confidence: confidence of all their intervals together.
        threshold: T of `same (within +-T)`.

    Raises:
        InputError: rounds or threshold are out of their range.

    Source: adding up the squared distances of the two ends is MOVER (Zou and Donner, Stat. Med. 27
    (2008) 1693-1702), with the runs' spread as a third, symmetric term.
    """
    if not 0 <= threshold < 1:
        raise InputError(f"threshold {threshold}; it is a fraction such as 0.01")
    ref = run_interval(reference, comparisons=comparisons, confidence=confidence)
    new = run_interval(candidate, comparisons=comparisons, confidence=confidence)
    if reference.estimate <= 0 or candidate.estimate <= 0:
        reason = "it took no time on this clock in one of the runs, so there is no ratio"
        return UnpairedChange(None, None, None, None, ref, new, Verdict.NOT_RESOLVED, reason, threshold)
    ratio = log(candidate.estimate / reference.estimate)
    rounds = min(reference.rounds.size, candidate.rounds.size)
    usable = spread is not None and spread.df >= MIN_SPREAD_DF
    if ref is None or new is None or spread is None or not usable:
        needed = _rounds_needed(comparisons, confidence)
        reason = _missing(rounds, needed) if ref is None or new is None else "the spread of runs is not known"
        return UnpairedChange(expm1(ratio), None, None, None, ref, new, Verdict.NOT_RESOLVED, reason, threshold)
    between = _t_quantile(spread.df, comparisons, confidence) * spread.sd_log * sqrt(2)
    down = hypot(_log_distance(new.low, candidate), _log_distance(ref.high, reference), between)
    up = hypot(_log_distance(new.high, candidate), _log_distance(ref.low, reference), between)
    low, high = expm1(ratio - down), expm1(ratio + up) if up < inf else inf
    within = sqrt(max(down**2 - between**2, 0.0)) if down < inf else inf
    error = hypot(spread.sd_log * sqrt(2), within / _normal_quantile(1 - (1 - confidence) / (2 * comparisons)))
    detectable = max(down, up) + _normal_quantile(MDE_POWER) * error
    verdict, reason = read_interval(low, high, rounds, threshold)
    return UnpairedChange(
        estimate=expm1(ratio),
        ci_low=low,
        ci_high=high,
        mde=expm1(detectable) if detectable < inf else inf,
        reference=ref,
        candidate=new,
        verdict=verdict,
        reason=reason,
        threshold=threshold,
    )


def _missing(rounds: int, needed: int) -> str:
    return (
        f"{plural(rounds, 'round')}; an interval needs {needed}"
        if rounds < needed
        else "it took no time in most rounds"
    )


def _rounds_needed(comparisons: int, confidence: float) -> int:
    return rounds_needed(comparisons, confidence=guarded_confidence(confidence))


def _log_distance(end: float, cost: RunCost) -> float:
    """How far an end of a run's interval lies from its estimate, in logarithms."""
    return abs(log(end / cost.estimate)) if end > 0 else inf


def _t_quantile(df: int, comparisons: int, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - (1 - confidence) / (2 * comparisons)))


def _normal_quantile(p: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(p))
