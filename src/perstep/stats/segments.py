"""One change of slope: whether a cost that should be a line against a size has one, and where.

Cost = c0 + c1 x + c2 max(x - at, 0), least squares of relative errors; the place `at` is searched. It stands in place
of the line only if four things hold, so that noise does not bend a line: BIC prefers it by a margin (the place counts
as a term), it predicts points that were held out clearly better (each time with the place searched anew), the best
place has more than three points on either side, and the slope changes by a tenth. Never two changes: points are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perstep.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

BIC_MARGIN = 10.0
"""By which a change of slope must be preferred: "very strong" evidence in the words of Kass and Raftery (1995).

A convention: no test tells 9 or 11 from it, and none should. The tests say that noise bends no line and that planted
knees are found.
"""
_WORTH_A_TERM = 0.25  # share of the line's worst held-out error that it must take away
_WORTH_TELLING = 0.1  # relative change of slope
_EACH_SIDE = 3  # points: two make a slope, one is to spare
_PLACES_A_GAP = 8  # places tried between two neighbouring points
_NOTHING = 1e-18  # a sum of squared relative errors that only rounding leaves
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Knee:
    """A place at which the slope changes.

    Attributes:
        at: the place.
        ci_low: lower end of its profile interval: the places that fit about as well (95 %).
        ci_high: upper end.
        slope_before: cost per unit of x below it.
        slope_beyond: cost per unit of x above it.
        intercept: of the line below it.
        bic_gain: by how much BIC prefers it to the line.
        heldout_error: largest relative error when each point is predicted from the others, with the place fitted again.
        line_heldout_error: the same of the line.
    """

    at: float
    ci_low: float
    ci_high: float
    slope_before: float
    slope_beyond: float
    intercept: float
    bic_gain: float
    heldout_error: float
    line_heldout_error: float

    def predict(self, x: ArrayLike) -> NDArray[np.float64]:
        """The fitted cost.

        Args:
            x: sizes, of any shape.
        """
        sizes = np.asarray(x, dtype=np.float64)
        beyond = np.maximum(sizes - self.at, 0.0)
        return np.asarray(self.intercept + self.slope_before * sizes + (self.slope_beyond - self.slope_before) * beyond)


def find_knee(x: ArrayLike, cost: ArrayLike) -> Knee | None:
    """The change of slope of a curve, if it has one.

    Args:
        x: [points] sizes, some of them different.
        cost: [points] cost at each, above 0.

    Returns:
        None where a line is enough: the change does not predict clearly better, BIC does not prefer it by the margin,
            the
        slope changes by less than a tenth, the best place is the first or the last of those tried, or there are fewer
        than eight points.

    Raises:
        InputError: if shapes differ or values are out of range.
    """
    sizes, costs = _curve(x, cost)
    if sizes.size < 2 * _EACH_SIDE + 2:
        return None
    places = _places(sizes)
    if places.size == 0:
        return None
    squares = np.array([_squares(_bent(sizes, at), costs) for at in places])
    line_squares = _squares(_straight(sizes), costs)
    least = squares.min()
    points = int(sizes.size)
    gain = points * np.log(max(line_squares, _NOTHING) / max(least, _NOTHING)) - 2 * np.log(points)
    if gain < BIC_MARGIN:
        return None
    best = int(squares.argmin())
    at = float(places[best])
    intercept, before, more = _solve(_bent(sizes, at), costs).tolist()
    if best in (0, places.size - 1) or abs(more) < _WORTH_TELLING * abs(before):
        return None
    line_error, error = _heldout_line(sizes, costs), _heldout_bent(sizes, costs)
    if error > (1 - _WORTH_A_TERM) * line_error:
        return None
    low, high = _profile_interval(places, squares, points)
    return Knee(at, low, high, before, before + more, intercept, float(gain), error, line_error)


def _profile_interval(places: NDArray[np.float64], squares: NDArray[np.float64], points: int) -> tuple[float, float]:
    """The places whose sum of squares an F test does not tell from the least."""
    from scipy.special import fdtri

    free = points - 4
    likely = places[squares <= squares.min() * (1 + fdtri(1, free, CONFIDENCE) / free)]
    return float(likely[0]), float(likely[-1])


def _heldout_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    kept = ~np.eye(x.size, dtype=bool)
    solved = (_solve(_straight(x[others]), y[others]) for others in kept)
    return max(abs(float(_straight(x[[i]])[0] @ line / y[i]) - 1) for i, line in enumerate(solved))


def _heldout_bent(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The whole search without each point in turn."""
    worst = 0.0
    for i, others in enumerate(~np.eye(x.size, dtype=bool)):
        at = _best_place(x[others], y[others])
        if at is None:
            return np.inf
        predicted = _bent(x[[i]], at)[0] @ _solve(_bent(x[others], at), y[others])
        worst = max(worst, abs(float(predicted / y[i]) - 1))
    return worst


def _best_place(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """The place of the best fit, whether or not it is better than a line; None without room for one."""
    places = _places(x)
    return float(min(places, key=lambda at: _squares(_bent(x, at), y))) if places.size else None


def beyond_knee(x: ArrayLike, cost: ArrayLike, knee: Knee) -> tuple[float, float] | None:
    """How well points far beyond a change of slope are predicted by the points before, with the place fitted again.

    Args:
        x: [points] sizes.
        cost: [points] cost at each, above 0.
        knee: what was found in all of them.

    Returns:
        The size above which points were held out (half the largest, or the third point after the change), and the
        largest relative error among them; None where no point lies above it.

    Raises:
        InputError: if shapes differ or values are out of range.
    """
    sizes, costs = _curve(x, cost)
    after = np.unique(sizes[sizes > knee.at])
    above = max(float(sizes[-1]) / 2, float(after[min(_EACH_SIDE, after.size) - 1]))
    seen = sizes <= above
    at = _best_place(sizes[seen], costs[seen])
    if at is None or seen.all():
        return None
    predicted = _bent(sizes[~seen], at) @ _solve(_bent(sizes[seen], at), costs[seen])
    return above, float(np.abs(predicted / costs[~seen] - 1).max())


def _places(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places to try: those that leave enough points on either side."""
    distinct = np.unique(x)
    if distinct.size < 2 * _EACH_SIDE:
        return np.zeros(0)
    inner = distinct[_EACH_SIDE - 1 : distinct.size - _EACH_SIDE + 1]
    parts = np.arange(_PLACES_A_GAP) / _PLACES_A_GAP
    between = inner[:-1, None] + parts * np.diff(inner)[:, None]
    return np.append(between.ravel(), inner[-1])


def _straight(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones_like(x), x], axis=1)


def _bent(x: NDArray[np.float64], at: float) -> NDArray[np.float64]:
    return np.stack([np.ones_like(x), x, np.maximum(x - at, 0.0)], axis=1)


def _solve(design: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.lstsq(design / y[:, None], np.ones(y.size), rcond=None)[0])


def _squares(design: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(((design @ _solve(design, y) / y - 1) ** 2).sum())


def _curve(x: ArrayLike, cost: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sizes, costs = np.asarray(x, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if sizes.ndim != 1 or sizes.shape != costs.shape or sizes.size == 0:
        raise InputError(f"sizes of shape {sizes.shape} and costs of {costs.shape}; one cost per size is needed")
    if not np.isfinite(sizes).all() or not np.isfinite(costs).all() or (costs <= 0).any():
        raise InputError("sizes must be finite and costs finite and above 0; every size must have been measured")
    order = np.argsort(sizes)
    return sizes[order], costs[order]
