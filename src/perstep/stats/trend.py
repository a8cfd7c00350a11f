"""Taking a trend along the positions of a trace out of rounds that lie at different positions.

Where a round is a piece of a call, a cost that grows with the context makes later pieces dearer. That is no noise: all
positions were measured, and the mean over them is what is asked for. Left in, it would make neighbouring rounds alike,
and these would be merged until none is left for an interval. So each round is brought to the mean position by the line
through all of them. Its slope is the median of the slopes between pairs (Theil 1950, Sen 1968), which a burst in a few
rounds does not move. By theory a decode step is a line in the context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST = 0.1
"""A line that falls to less than this share of its middle is not used: the values are mostly zeros or noise."""


def without_trend(values: NDArray[np.float64], at: NDArray[np.float64], to: float) -> NDArray[np.float64]:
    """Values brought to one position, by the ratio of a line's values there and at their own.

    Args:
        values: [rounds], none negative.
        at: [rounds] where each lies.
        to: the position; the mean one of the trace, of which that of the rounds may differ.

    Returns:
        [rounds]; the values as they are where all lie at one position, or where no line above 0 fits.

    >>> without_trend(np.array([10.0, 12.0, 14.0]), np.array([0.0, 1.0, 2.0]), 1.0).tolist()
    [12.0, 12.0, 12.0]
    """
    first, second = np.triu_indices(len(values), 1)
    apart = at[second] - at[first]
    seen = apart != 0
    if not seen.any():
        return values
    slope = np.median((values[second] - values[first])[seen] / apart[seen])
    middle = float(np.median(values - slope * (at - to)))
    line = middle + slope * (at - to)
    if middle <= 0 or line.min() < _LEAST * middle:
        return values
    return np.asarray(values * (middle / line), dtype=np.float64)
