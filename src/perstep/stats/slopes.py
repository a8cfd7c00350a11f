"""How a cost grows along a call: pairs of steps half a call apart, each with its own slope.

Cox and Stuart's trend test as an interval: the slopes of the pairs are independent of each other, their median is the
estimate, and its interval is the sign test's, merged like that of rounds. A burst moves one pair. A curve would look
like autocorrelation, so what the slopes gain along a call is taken out first: the slope is that in its middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perstep.errors import InputError
from perstep.stats.merging import merge_until_independent, merged_interval
from perstep.stats.order import median

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Slope:
    """What a position more adds to a cost.

    Attributes:
        estimate: the median slope of the pairs, in the unit of the cost.
        low: lower end of its interval; None with too few pairs, or too autocorrelated ones.
        high: its upper end.
    """

    estimate: float
    low: float | None
    high: float | None


def half_slopes(
    calls: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], *, comparisons: int = 1
) -> Slope | None:
    """The slope of a cost over the positions of calls; None where no call has two.

    Args:
        calls: of each its positions, rising, and the cost at each, both [steps].
        comparisons: how many intervals are shown together (Bonferroni).

    Raises:
        InputError: the shapes of a call differ, or its positions do not rise.
    """
    pairs = [_pairs(x, y) for x, y in calls]
    changes = np.concatenate(pairs) if pairs else np.zeros((0, 2))
    if not len(changes):
        return None
    merged = merge_until_independent(changes, lambda t: t[:, 0] / t[:, 1], comparisons=comparisons)
    interval = merged_interval(merged, comparisons=comparisons)
    estimate = median(changes[:, 0] / changes[:, 1])
    if interval is None:
        return Slope(estimate, None, None)
    return Slope(estimate, min(interval.low, estimate), max(interval.high, estimate))


def _pairs(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """[pairs, 2] what cost and position gain from a step to the one half a call later."""
    if x.shape != y.shape or x.ndim != 1 or (np.diff(x) <= 0).any():
        raise InputError(f"positions of shape {x.shape} for costs of shape {y.shape}; they must rise, one a cost")
    half = len(x) // 2
    gained_y, gained_x = y[len(y) - half :] - y[:half], x[len(x) - half :] - x[:half]
    return np.stack([_straightened(gained_y / gained_x) * gained_x, gained_x], axis=1)


def _straightened(slopes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slopes without what they gain from one to the next; their middle stays."""
    half = len(slopes) // 2
    if not half:
        return slopes
    gain = median(slopes[len(slopes) - half :] - slopes[:half]) / (len(slopes) - half)
    return slopes - gain * (np.arange(len(slopes)) - (len(slopes) - 1) / 2)
