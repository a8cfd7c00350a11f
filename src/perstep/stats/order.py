"""Exact intervals for a median, from the sign test.

The median lies between the j-th smallest and the j-th largest of n independent values with probability at least
1 - 2 P[Bin(n, 1/2) < j], whatever the shape of the noise (law "intervals are exact"). The rank j comes from integer
arithmetic, so there is no approximation at small n. Equal values stay in: they widen the interval and never narrow it.
If n is too small for the wanted confidence, there is no interval. Ranks are not interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from perstep.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_MAX_VALUES = 1_000_000


@dataclass(frozen=True, slots=True)
class MedianInterval:
    """The two order statistics that enclose a median.

    Attributes:
        low: the `rank`-th smallest value.
        high: the `rank`-th largest value.
        confidence: achieved confidence of this one interval, at least the wanted one.
        rank: 1-based rank counted from either end.
    """

    low: float
    high: float
    confidence: float
    rank: int


def sign_test_rank(n: int, *, comparisons: int = 1, confidence: float = 0.95) -> int:
    """The largest rank j whose interval [x_(j), x_(n+1-j)] has the wanted confidence.

    Args:
        n: number of values.
        comparisons: number of intervals shown together (Bonferroni: each gets 1/comparisons of the error).
        confidence: wanted confidence of all of them together.

    Returns:
        The rank, counted from 1; 0 if n values have no such interval.

    Raises:
        InputError: if an argument is out of its range.

    Source: Conover, Practical Nonparametric Statistics (3rd ed.), section 3.2.
    """
    _check(n, comparisons, confidence)
    return _rank_and_tail(n, comparisons, confidence)[0]


def achieved_confidence(n: int, rank: int) -> float:
    """Confidence of [x_(rank), x_(n+1-rank)]: 1 - 2 P[Bin(n, 1/2) < rank].

    Args:
        n: number of values.
        rank: 1-based, at most (n + 1) // 2.

    Raises:
        InputError: if the rank is not one of n values.
    """
    if not 1 <= rank <= (n + 1) // 2:
        raise InputError(f"rank {rank}; of n = {n} it must lie between 1 and {(n + 1) // 2}")
    return float(1 - 2 * Fraction(_below(n, rank), 1 << n))


def rounds_needed(comparisons: int = 1, *, confidence: float = 0.95) -> int:
    """The smallest number of values that has an interval (at 95 %: 6 for one comparison, 9 for twelve).

    Args:
        comparisons: number of intervals shown together.
        confidence: wanted confidence of all of them together.

    Raises:
        InputError: if an argument is out of its range.
    """
    _check(1, comparisons, confidence)
    n = 1
    while _rank_and_tail(n, comparisons, confidence)[0] == 0:
        n += 1
    return n


def median(values: ArrayLike) -> float:
    """The median; infinities are values like others.

    If the two middle values are -inf and +inf, the median is 0, so that exchanging the arms of a comparison still
    changes only the sign.

    Args:
        values: [n], no NaN.

    Raises:
        InputError: if there is no value, or one is NaN.
    """
    ordered = _sorted(values)
    low, high = ordered[(ordered.size - 1) // 2], ordered[ordered.size // 2]
    if np.isinf(low) and np.isinf(high) and low != high:
        return 0.0
    if low == high:  # also keeps inf - inf out of the mean
        return float(low)
    return float((low + high) / 2)


def median_interval(values: ArrayLike, *, comparisons: int = 1, confidence: float = 0.95) -> MedianInterval | None:
    """Exact interval for the median of independent values; its confidence is never below the wanted one.

    Args:
        values: [n], no NaN; infinities are values like others.
        comparisons: number of intervals shown together (Bonferroni).
        confidence: wanted confidence of all of them together.

    Returns:
        The interval, or None if n is smaller than `rounds_needed(comparisons)`.

    Raises:
        InputError: if there is no value, one is NaN, or an argument is out of its range.
    """
    ordered = _sorted(values)
    n = int(ordered.size)
    _check(n, comparisons, confidence)
    rank, tail = _rank_and_tail(n, comparisons, confidence)
    if rank == 0:
        return None
    return MedianInterval(float(ordered[rank - 1]), float(ordered[n - rank]), 1 - 2 * tail, rank)


@lru_cache(maxsize=4096)
def _rank_and_tail(n: int, comparisons: int, confidence: float) -> tuple[int, float]:
    """The rank and P[Bin(n, 1/2) < rank], found in whole numbers: sum of C(n, i) against alpha 2^n / 2k."""
    alpha = (1 - Fraction(str(confidence))) / comparisons
    limit = alpha * (1 << n) / 2
    rank, below, term = 0, 0, 1  # term = C(n, rank)
    while rank < (n + 1) // 2 and below + term <= limit:
        below += term
        term = term * (n - rank) // (rank + 1)
        rank += 1
    return rank, float(Fraction(below, 1 << n))


def _below(n: int, rank: int) -> int:
    """The sum of C(n, i) over i < rank."""
    total, term = 0, 1
    for i in range(rank):
        total += term
        term = term * (n - i) // (i + 1)
    return total


def _sorted(values: ArrayLike) -> NDArray[np.float64]:
    flat = np.asarray(values, dtype=np.float64)
    if flat.ndim != 1 or flat.size == 0:
        raise InputError(f"values of shape {flat.shape}; one row of at least one value is needed")
    if np.isnan(flat).any():
        raise InputError("a value is NaN; every round must have a number")
    return np.sort(flat)


def _check(n: int, comparisons: int, confidence: float) -> None:
    if not 0 <= n <= _MAX_VALUES:
        raise InputError(f"n = {n}; between 0 and {_MAX_VALUES} values are supported")
    if comparisons < 1:
        raise InputError(f"comparisons = {comparisons}; at least 1 is shown")
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence}; it must lie between 0 and 1, such as 0.95")
