"""Rules that perstep does not use, so that what they would have claimed can be measured.

Each takes log-ratios [series, rounds] or raw steps and returns intervals or rejections,
vectorised over the series. They are written as their own tools or textbooks have them, not
weakened; `benchmarks/statistics.py` runs them on the same simulated machines as ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats as scipy_stats

from perstep.stats import sign_test_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Interval = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class StoppingRule:
    """A sign test on unmerged rounds, and when it stops looking.

    Attributes:
        name: its key in the results.
        first: rounds before the first look.
        growth: each look comes at this multiple of the rounds of the one before; 1 is every round.
        confidence: asked of the sign test.
        on_significance: stop when the interval excludes 0 rather than when it is narrow.
    """

    name: str
    first: int
    growth: float
    confidence: float
    on_significance: bool = False

    def looks(self, budget: int) -> list[int]:
        """Rounds at which it looks, the last being the budget."""
        at, rounds = [], self.first
        while rounds < budget:
            at.append(rounds)
            rounds = max(rounds + 1, int(np.ceil(rounds * self.growth)))
        return [*at, budget]


STOPPING_RULES = (
    StoppingRule("from 20, looks 1.5x apart, asked 97 %", 20, 1.5, 0.97),
    StoppingRule("from 20, looks 1.5x apart, asked 95 %", 20, 1.5, 0.95),
    StoppingRule("from 20, every round, asked 95 %", 20, 1.0, 0.95),
    StoppingRule("from 6, every round, asked 95 %", 6, 1.0, 0.95),
    StoppingRule("on significance, from 20, every round", 20, 1.0, 0.95, on_significance=True),
    StoppingRule("on significance, from 6, every round", 6, 1.0, 0.95, on_significance=True),
)


def run_stopping_rule(
    ratios: NDArray[np.float64], rule: StoppingRule, precision: float, budget: int
) -> tuple[Interval, NDArray[np.intp]]:
    """Intervals at the round where the rule stops, and that round.

    Args:
        ratios: [series, rounds >= budget] log-ratios.
        rule: the rule.
        precision: half-width to stop at.
        budget: rounds at which it stops anyway.

    Returns:
        ((low [series], high [series]), rounds [series]).
    """
    series = ratios.shape[0]
    low, high, stopped = np.empty(series), np.empty(series), np.zeros(series, dtype=np.intp)
    going = np.arange(series)
    for look in rule.looks(budget):
        low[going], high[going] = sign_test(ratios[going, :look], rule.confidence)
        if rule.on_significance:
            stop = (low[going] > 0) | (high[going] < 0)
        else:
            stop = (high[going] - low[going]) / 2 <= precision
        stop |= look == budget
        stopped[going[stop]] = look
        going = going[~stop]
        if not going.size:
            break
    return (low, high), stopped


def sign_test(x: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Order-statistic interval of each row's median, unmerged: x [series, n]."""
    rank = sign_test_rank(x.shape[1], confidence=confidence)
    ordered = np.sort(x, axis=1)
    return ordered[:, rank - 1], ordered[:, -rank]


def t_interval(x: NDArray[np.float64]) -> Interval:
    """Student's interval of each row's mean."""
    n = x.shape[1]
    half = scipy_stats.t.ppf(0.975, n - 1) * x.std(axis=1, ddof=1) / np.sqrt(n)
    return x.mean(axis=1) - half, x.mean(axis=1) + half


def hodges_lehmann(x: NDArray[np.float64]) -> Interval:
    """Wilcoxon's signed-rank interval: order statistics of the Walsh averages, exact rank."""
    n = x.shape[1]
    counts = np.ones(1)  # counts[t] subsets of 1..n have the sum t
    for rank in range(1, n + 1):
        counts = np.convolve(counts, np.r_[1.0, np.zeros(rank - 1), 1.0])
    k = int((np.cumsum(counts / 2.0**n) <= 0.025).sum())
    i, j = np.triu_indices(n)
    low, high = [], []
    for chunk in np.array_split(x, max(1, x.shape[0] // 500)):
        walsh = np.partition((chunk[:, i] + chunk[:, j]) / 2, (k - 1, i.size - k), axis=1)
        low.append(walsh[:, k - 1])
        high.append(walsh[:, -k])
    return np.concatenate(low), np.concatenate(high)


def bootstrap_percentile(x: NDArray[np.float64], rng: np.random.Generator, resamples: int = 1000) -> Interval:
    """Percentile bootstrap of each row's median; the resampled indices are shared by the rows."""
    drawn = rng.integers(x.shape[1], size=(resamples, x.shape[1]))
    medians = np.concatenate(
        [np.median(chunk[:, drawn], axis=2) for chunk in np.array_split(x, max(1, x.shape[0] // 50))]
    )
    low, high = np.quantile(medians, [0.025, 0.975], axis=1)
    return low, high


def holm_confidences(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Confidence of each interval if Holm's step-down levels are read as interval levels: [series, k]."""
    k = p_values.shape[1]
    order = np.argsort(np.argsort(p_values, axis=1), axis=1)
    return np.asarray(1 - 0.05 / (k - order), dtype=np.float64)


def sign_test_p_values(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-sided sign-test p-value of each row: x [..., n]."""
    n = x.shape[-1]
    below = (x < 0).sum(axis=-1)
    return np.minimum(1.0, 2 * scipy_stats.binom.cdf(np.minimum(below, n - below), n, 0.5))


def pooled_mann_whitney(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether pooled single steps of two arms, measured one after the other, differ at 5 %: [series, steps]."""
    test = scipy_stats.mannwhitneyu(first, second, axis=1, method="asymptotic")
    return np.asarray(test.pvalue < 0.05)


def rows(intervals: Interval, truth: float | Sequence[float]) -> NDArray[np.bool_]:
    """Whether each interval holds the truth."""
    return np.asarray((intervals[0] <= truth) & (truth <= intervals[1]))
