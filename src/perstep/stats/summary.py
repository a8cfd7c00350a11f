"""Robust summaries of one sample: median, spread, percentiles, outlier census.

Every value stays in; outliers are counted (Tukey's fences, as Criterion does) and never dropped (law "nothing is
dropped"). A percentile needs at least ten values beyond it (P95: 200 values, P99: 1,000); without them it is None and
says why. Standard deviations divide by n - 1. Values are not treated as independent: there are no standard errors and
no tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural, short
from perstep.errors import InputError
from perstep.stats.order import median

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

VALUES_BEYOND_PERCENTILE = 10
MILD_FENCE = 1.5
SEVERE_FENCE = 3.0


@dataclass(frozen=True, slots=True)
class Percentile:
    """A percentile, or the reason why the sample cannot support it.

    Attributes:
        percent: which one, such as 99.
        value: the value, interpolated linearly between ranks; None if unsupported.
        reason: why the value is None; empty otherwise.
    """

    percent: float
    value: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Outliers:
    """How many values lie beyond Tukey's fences; they all stay in the sample.

    Attributes:
        low_severe: below Q1 - 3 IQR.
        low_mild: between Q1 - 3 IQR and Q1 - 1.5 IQR.
        high_mild: between Q3 + 1.5 IQR and Q3 + 3 IQR.
        high_severe: above Q3 + 3 IQR.
    """

    low_severe: int
    low_mild: int
    high_mild: int
    high_severe: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.low_severe + self.low_mild + self.high_mild + self.high_severe


@dataclass(frozen=True, slots=True)
class Summary:
    """One sample in numbers, in the unit of its values.

    Attributes:
        n: number of values; none was dropped.
        median: the middle.
        mean: arithmetic mean.
        std: standard deviation with n - 1; None for one value.
        min: smallest.
        max: largest.
        mad: median absolute deviation from the median, not scaled.
        percentiles: in the order asked for.
        outliers: Tukey's census.
    """

    n: int
    median: float
    mean: float
    std: float | None
    min: float
    max: float
    mad: float
    percentiles: tuple[Percentile, ...]
    outliers: Outliers

    def percentile(self, percent: float) -> Percentile:
        """The percentile of that number.

        Args:
            percent: one of those asked for.

        Raises:
            InputError: if it was not asked for.
        """
        for each in self.percentiles:
            if each.percent == percent:
                return each
        available = ", ".join(f"P{short(p.percent)}" for p in self.percentiles)
        raise InputError(f"no P{short(percent)} in this summary; it holds {available}")


def summarise(values: ArrayLike, percents: Sequence[float] = (50, 95, 99)) -> Summary:
    """Summarise one sample.

    Args:
        values: [n] finite numbers.
        percents: percentiles to give, between 0 and 100 exclusive.

    Raises:
        InputError: if there is no value, one is not finite, or a percent is out of range.
    """
    sample = _sample(values)
    middle = median(sample)
    return Summary(
        n=sample.size,
        median=middle,
        mean=float(sample.mean()),
        std=float(sample.std(ddof=1)) if sample.size > 1 else None,
        min=float(sample.min()),
        max=float(sample.max()),
        mad=median(np.abs(sample - middle)),
        percentiles=tuple(percentile(sample, p) for p in percents),
        outliers=count_outliers(sample),
    )


def percentile(values: ArrayLike, percent: float) -> Percentile:
    """A percentile, null where fewer than ten values are expected beyond it.

    The median is exempt: it needs no tail.

    Args:
        values: [n] finite numbers.
        percent: between 0 and 100 exclusive.

    Raises:
        InputError: if there is no value, one is not finite, or the percent is out of range.
    """
    sample = _sample(values)
    if not 0 < percent < 100:
        raise InputError(f"P{short(percent)}; a percentile lies between 0 and 100")
    needed = values_needed(percent)
    if sample.size < needed:
        reason = f"P{short(percent)} needs {plural(needed, 'value')}, this sample has {sample.size:,}"
        return Percentile(percent, None, reason)
    return Percentile(percent, float(np.percentile(sample, percent)), "")


def values_needed(percent: float) -> int:
    """Values a percentile needs: 10 / tail, so 200 for P95, 1,000 for P99, 1 for the median.

    Args:
        percent: between 0 and 100 exclusive.
    """
    if percent == 50:
        return 1
    exact = Fraction(str(percent)) / 100  # 99.9 as a float would ask for one value too many
    return ceil(VALUES_BEYOND_PERCENTILE / min(exact, 1 - exact))


def count_outliers(values: ArrayLike) -> Outliers:
    """Count the values beyond Tukey's fences.

    Args:
        values: [n] finite numbers.

    Raises:
        InputError: if there is no value or one is not finite.

    Source: Tukey, Exploratory Data Analysis (1977), chapter 2.
    """
    sample = _sample(values)
    q1, q3 = np.percentile(sample, [25, 75])
    mild, severe = MILD_FENCE * (q3 - q1), SEVERE_FENCE * (q3 - q1)
    low_severe = int((sample < q1 - severe).sum())
    high_severe = int((sample > q3 + severe).sum())
    return Outliers(
        low_severe=low_severe,
        low_mild=int((sample < q1 - mild).sum()) - low_severe,
        high_mild=int((sample > q3 + mild).sum()) - high_severe,
        high_severe=high_severe,
    )


def _sample(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise InputError(f"values of shape {sample.shape}; one row of at least one value is needed")
    if not np.isfinite(sample).all():
        raise InputError("a value is not finite; a summary needs numbers only")
    return sample
