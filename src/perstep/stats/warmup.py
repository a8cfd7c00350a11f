"""Where a series of durations becomes steady, so that what lies before can be set aside.

The medians of successive windows are compared. The series is steady from the first window that agrees with the next one
(law "every path is warm"): within a tolerance, or within the noise inside the windows. Values that are set aside are
counted and stay in the samples. The answer is a pure function of the series and is capped: a series that never settles
has a drift, which the paired design cancels, and not a longer warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural, short
from perstep.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Standard error of the median of n Gaussian values, in units of their MAD: 1.2533 * 1.4826 / sqrt(n).
_MEDIAN_ERROR_PER_MAD = 1.858
# Two medians of the same series differ by more than this many standard errors once in about 370 times.
_AGREE_WITHIN = 3.0


@dataclass(frozen=True, slots=True)
class Warmup:
    """How much of a series is warm-up.

    Attributes:
        dropped: how many values at its start to set aside.
        steady: whether the rest was found steady before the cap.
        reason: what was seen, in words.
    """

    dropped: int
    steady: bool
    reason: str


def find_steady_state(
    durations: ArrayLike, *, window: int = 10, tolerance: float = 0.02, max_dropped: int = 100
) -> Warmup:
    """Find how many values at the start of a series are warm-up.

    Args:
        durations: [n] durations of successive steps or rounds, in any one unit.
        window: values per window.
        tolerance: medians that differ by less than this fraction agree at any noise.
        max_dropped: at most this many values are set aside, and never more than half the series.

    Returns:
        A multiple of `window` values to set aside. A series shorter than two windows cannot
        be judged: nothing is dropped and `steady` is False.

    Raises:
        InputError: if a duration is negative or not finite, or an argument is out of its range.
    """
    series = np.asarray(durations, dtype=np.float64)
    _check(series, window, tolerance, max_dropped)
    if series.size < 2 * window:
        return Warmup(
            0, False, f"{plural(series.size, 'value is', 'values are')} too few to judge; {2 * window} are needed"
        )
    num_windows = series.size // window
    windows = series[: num_windows * window].reshape(num_windows, window)
    medians = np.median(windows, axis=1)
    mads = np.median(np.abs(windows - medians[:, None]), axis=1)
    # The usual MAD, not that of the two windows: one that holds the end of the warm-up has a large one.
    noise = _AGREE_WITHIN * _MEDIAN_ERROR_PER_MAD * sqrt(2 / window) * float(np.median(mads))
    last = min(max_dropped, series.size // 2) // window  # windows that may go
    for i in range(min(last + 1, num_windows - 1)):
        if abs(medians[i + 1] - medians[i]) <= max(tolerance * medians[i + 1], noise):
            return Warmup(i * window, True, _describe(medians, i, window))
    return Warmup(
        last * window,
        False,
        f"windows of {window} still differ after {plural(last * window, 'value')} (median {short(medians[last], 4)} "
        f"against {short(medians[-1], 4)} at the end); read as drift",
    )


def _describe(medians: NDArray[np.float64], i: int, window: int) -> str:
    if i == 0:
        return f"steady from the start: the first two windows of {window} agree"
    ratio = medians[:i].max() / medians[i]
    return f"the first {i * window:,} values have medians up to {ratio:.2f} times the steady one"


def _check(series: NDArray[np.float64], window: int, tolerance: float, max_dropped: int) -> None:
    if series.ndim != 1 or not np.isfinite(series).all() or (series < 0).any():
        raise InputError("durations must be one row of finite numbers, none of them negative")
    if window < 4:
        raise InputError(f"window {window}; a median of fewer than 4 values judges nothing")
    if tolerance < 0 or max_dropped < 0:
        raise InputError(f"tolerance {tolerance} and max_dropped {max_dropped} must not be negative")
