"""The interval of a part's share of the step.

Part and step are paired inside the round, so that a machine that slows down between rounds does not widen the interval
(law "a share is of its own step"). Rounds are merged as in a comparison, the sign test is exact, and the intervals of
all parts shown hold together (Bonferroni). The interval is placed around the ledger's estimate, the mean over positions
of medians over rounds, which is an argument here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perstep.errors import InputError
from perstep.stats.merging import merge_until_independent, merged_interval
from perstep.stats.order import median

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class ShareInterval:
    """An interval about a share.

    Attributes:
        low: lower end, a fraction of the step.
        high: upper end.
        confidence: confidence of all intervals shown together, such as 0.95.
        achieved: confidence of this one interval by the sign test alone.
        rounds: rounds measured, before merging.
        merged_by: adjacent rounds that make one value of the interval.
        autocorrelation: lag-1 autocorrelation left between those values.
    """

    low: float
    high: float
    confidence: float
    achieved: float
    rounds: int
    merged_by: int
    autocorrelation: float


def share_interval(
    part_totals: ArrayLike,
    step_totals: ArrayLike,
    *,
    estimate: float,
    comparisons: int = 1,
    confidence: float = 0.95,
    with_median: bool = False,
) -> ShareInterval | None:
    """The interval of a share around its estimate: from estimate / factor to estimate * factor.

    The exact interval of part / step has two distances from its median, in logarithms. The factor is the larger one, so
    that neither end is negative. The larger one is taken because the estimate and the median of the ratios err in
    different directions (docs/statistics.md has the coverage). Where the median is 0 (a part that most rounds do not
    contain) the interval of the ratios is widened to include the estimate.

    Args:
        part_totals: [rounds] the part's time in each round.
        step_totals: [rounds] the steps' time in the same rounds and unit, all above 0.
        estimate: the share that the interval is for, not negative.
        comparisons: number of shares shown together (Bonferroni).
        confidence: confidence of all their intervals together.
        with_median: the estimate is a mean in which bursts count; the interval also holds that of the ratios' median.

    Returns:
        The interval; None with too few rounds, or with rounds that are too autocorrelated.

    Raises:
        InputError: if shapes differ, a total is not finite or negative, a step is 0, or the
            estimate is negative.
    """
    totals = _totals(part_totals, step_totals)
    if not 0 <= estimate < np.inf:
        raise InputError(f"estimate {estimate}; a share is a finite fraction that is not negative")
    merged = merge_until_independent(
        totals, lambda t: t[:, 0] / t[:, 1], comparisons=comparisons, confidence=confidence
    )
    interval = merged_interval(merged, comparisons=comparisons, confidence=confidence)
    if interval is None:
        return None
    middle = median(merged.values)
    if middle > 0:
        # If a round does not contain the part, the lower end is 0; the upper end is that of the interval itself.
        down = middle / interval.low if interval.low > 0 else np.inf
        factor = max(interval.high / middle, down)
        low = estimate / factor
        high = estimate * (factor if np.isfinite(factor) else interval.high / middle)
    else:
        low, high = min(interval.low, estimate), max(interval.high, estimate)
    if with_median:
        low, high = min(low, interval.low), max(high, interval.high)
    return ShareInterval(
        low=low,
        high=high,
        confidence=confidence,
        achieved=interval.confidence,
        rounds=totals.shape[0],
        merged_by=merged.merged_by,
        autocorrelation=merged.autocorrelation,
    )


def _totals(part_totals: ArrayLike, step_totals: ArrayLike) -> NDArray[np.float64]:
    part, step = np.asarray(part_totals, dtype=np.float64), np.asarray(step_totals, dtype=np.float64)
    if part.ndim != 1 or part.shape != step.shape or part.size == 0:
        raise InputError(f"totals of shapes {part.shape} and {step.shape}; one value per round is needed")
    totals = np.stack([part, step], axis=1)
    if not np.isfinite(totals).all() or (part < 0).any() or (step <= 0).any():
        raise InputError("a total is not finite, a part is negative, or a step took no time")
    return totals
