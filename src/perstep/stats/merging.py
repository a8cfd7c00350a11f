"""Merging adjacent rounds until they are not autocorrelated (law "rounds are merged until independent").

An exact interval needs independent rounds. Rounds are joined in pairs, then pairs of pairs, until the lag-1
autocorrelation is under 0.1. A merged round equals a round of twice the length. The autocorrelation is that of the
ranks, because a sign test uses only the order, and one burst must not hide the rest. It is corrected by 1/n, its bias
under independence. Where rounds run out first, the widest interval is used; from an autocorrelation of 0.5 on there is
none. docs/statistics.md has the measured coverage of this rule and of rejected ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.errors import InputError
from perstep.stats.order import MedianInterval, achieved_confidence, median_interval, sign_test_rank

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

MAX_AUTOCORRELATION = 0.1

# Above this even the widest interval of the merged rounds is too narrow; showing none at all from
# 0.1 on would show those that passed by luck (docs/statistics.md, "Autocorrelated rounds").
MAX_AUTOCORRELATION_OF_WIDEST = 0.5

# What is printed as a 95 % interval is asked of the sign test at 97 %: the share of the error
# that looking several times and choosing a merge factor may not use up. Asked at 95 % and looked
# at after every round, white noise alone gave 6.7 % non-coverage (docs/statistics.md).
ERROR_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Merged:
    """Per-round values after merging.

    Attributes:
        values: [merged rounds].
        merged_by: how many rounds went into each value (the last blocks may hold one more or less).
        autocorrelation: lag-1 autocorrelation of the values' ranks, corrected for bias.
        independent: whether that is under 0.1. If not, merging further would leave too few for an interval.
    """

    values: NDArray[np.float64]
    merged_by: int
    autocorrelation: float
    independent: bool


def merged_interval(merged: Merged, *, comparisons: int = 1, confidence: float = 0.95) -> MedianInterval | None:
    """The interval of the median of merged rounds, as it is shown.

    Args:
        merged: what `merge_until_independent` gave for the same two arguments.
        comparisons: how many intervals are shown together (Bonferroni).
        confidence: the confidence they are shown with.

    Returns:
        The sign-test interval at the guarded confidence. From the smallest to the largest value
        where rounds ran out before they were independent; None where they are far from it
        (autocorrelation of 0.5 or more) or fewer than any interval needs.
    """
    asked = guarded_confidence(confidence)
    interval = median_interval(merged.values, comparisons=comparisons, confidence=asked)
    if merged.independent or interval is None:
        return interval
    if merged.autocorrelation >= MAX_AUTOCORRELATION_OF_WIDEST:
        return None
    low, high = float(merged.values.min()), float(merged.values.max())
    return MedianInterval(low, high, achieved_confidence(merged.values.size, 1), 1)


def guarded_confidence(confidence: float) -> float:
    """The confidence at which the sign test computes an interval that is shown with `confidence`.

    Args:
        confidence: the shown one, between 0 and 1; 0.95 gives 0.97.
    """
    return 1 - ERROR_SHARE * (1 - confidence)


def rank_autocorrelation(values: ArrayLike) -> float:
    """Lag-1 autocorrelation of the ranks, plus 1/n, which makes its mean 0 for independent values.

    Args:
        values: [n] with n >= 2 and no NaN; infinities are values like others, ties share a rank.

    Returns:
        About -1 to 1; 0 if all values are equal.

    Raises:
        InputError: if there are fewer than two values.

    Source: Bartels, J. Am. Stat. Assoc. 77 (1982) 40-46; E[r] = -1/n for exchangeable values.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size < 2:
        raise InputError(f"values of shape {x.shape}; a row of at least two is needed")
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    if counts.size == 1:
        return 0.0
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    centred = ranks - ranks.mean()
    return float((centred[1:] * centred[:-1]).sum() / (centred**2).sum() + 1 / x.size)


def merge_rounds(costs: ArrayLike, factor: int) -> NDArray[np.float64]:
    """Mean cost of each block of `factor` adjacent rounds.

    No round is dropped: what does not fill a block is spread over the others, one round each.

    Args:
        costs: [rounds] or [rounds, arms].
        factor: rounds per block, between 1 and the number of rounds.

    Returns:
        [rounds // factor] or [rounds // factor, arms].

    Raises:
        InputError: if the factor is out of range.
    """
    x = np.asarray(costs, dtype=np.float64)
    if not 1 <= factor <= x.shape[0]:
        raise InputError(f"merging {plural(x.shape[0], 'round')} by {factor}; a factor lies between 1 and their number")
    if factor == 1:
        return x
    blocks = x.shape[0] // factor
    edges = np.arange(blocks + 1) * x.shape[0] // blocks
    sums = np.add.reduceat(x, edges[:-1], axis=0)
    return np.asarray(sums / np.diff(edges).reshape(-1, *[1] * (x.ndim - 1)), dtype=np.float64)


def merge_until_independent(
    costs: ArrayLike,
    to_values: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    comparisons: int = 1,
    confidence: float = 0.95,
) -> Merged:
    """Double the merge factor until the values are independent or too few are left for an interval.

    Args:
        costs: [rounds, arms] with at least one round.
        to_values: from merged costs [merged rounds, arms] to one value per merged round.
        comparisons: how many intervals are shown together (Bonferroni).
        confidence: the confidence they will be shown with.

    Returns:
        The first independent merging, or the last one that still could have had an interval;
        with fewer rounds than any interval needs, the rounds as they are.
    """
    x = np.asarray(costs, dtype=np.float64)
    asked = guarded_confidence(confidence)
    factor = 1
    while True:
        values = to_values(merge_rounds(x, factor))
        autocorrelation = rank_autocorrelation(values) if values.size > 1 else 0.0
        independent = autocorrelation < MAX_AUTOCORRELATION
        left = x.shape[0] // (2 * factor)
        if independent or sign_test_rank(left, comparisons=comparisons, confidence=asked) == 0:
            return Merged(values, factor, autocorrelation, independent)
        factor *= 2
