"""How a cost grows with a size: fits, local exponents, the crossing of two curves.

A fit has a constant, a linear and, if that predicts better, a quadratic term, or a constant and a multiple of a curve
that theory gives. It is judged on points that it did not see, between the fitted ones and in the octave beyond
(law "fits are judged on held-out points"). R^2 is shown and decides nothing. Errors are relative, because timing noise
is relative, and so are the weights of the least squares. "None in range" is an answer: curves are not extended to make
them cross.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import short
from perstep.errors import InputError
from perstep.stats.bootstrap import RESAMPLES, common_merge_factor, percentile_interval, rounds_to_draw, why_none
from perstep.stats.merging import merge_rounds

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# The simpler fit stays unless the quadratic term takes away at least this share of its error.
_WORTH_A_TERM = 0.1
_MIN_FITTED = 4  # three terms and one to spare
_MIN_SCALED = 3  # two and one to spare


@dataclass(frozen=True, slots=True)
class PolynomialFit:
    """cost = c0 + c1 x (+ c2 x^2), fitted to some points and judged on others.

    Attributes:
        coefficients: (c0, c1) or (c0, c1, c2).
        interleaved_error: largest relative error at held-out points between the fitted ones.
        beyond_error: largest relative error at held-out points in the octave beyond them.
        r_squared: of the fitted points, unweighted.
    """

    coefficients: tuple[float, ...]
    interleaved_error: float
    beyond_error: float
    r_squared: float

    def predict(self, x: ArrayLike) -> NDArray[np.float64]:
        """The fitted cost.

        Args:
            x: sizes, of any shape.
        """
        return np.asarray(np.polynomial.polynomial.polyval(np.asarray(x, dtype=np.float64), self.coefficients))


@dataclass(frozen=True, slots=True)
class ScaledFit:
    """cost = offset + scale x curve, where the curve was given; fitted to some points and judged on others.

    Attributes:
        offset: in the unit of the cost.
        scale: costs for each unit of the curve.
        interleaved_error: largest relative error at held-out points between the fitted ones.
        beyond_error: largest relative error at held-out points in the octave beyond them.
        r_squared: of the fitted points, unweighted.
        fitted_x: sizes the fit saw.
        interleaved_x: held-out sizes between them.
        beyond_x: held-out sizes in the octave beyond them.
    """

    offset: float
    scale: float
    interleaved_error: float
    beyond_error: float
    r_squared: float
    fitted_x: tuple[float, ...]
    interleaved_x: tuple[float, ...]
    beyond_x: tuple[float, ...]

    def predict(self, curve: ArrayLike) -> NDArray[np.float64]:
        """The fitted cost.

        Args:
            curve: what was given for a size, of any shape.
        """
        return self.offset + self.scale * np.asarray(curve, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class CostFit:
    """Both fits to one curve.

    Attributes:
        linear: constant and linear term.
        quadratic: constant, linear and quadratic term.
        chosen: the linear one, unless the quadratic one predicts held-out points clearly better.
        fitted_x: sizes the fits saw.
        interleaved_x: held-out sizes between them.
        beyond_x: held-out sizes in the octave beyond them.
    """

    linear: PolynomialFit
    quadratic: PolynomialFit
    chosen: PolynomialFit
    fitted_x: tuple[float, ...]
    interleaved_x: tuple[float, ...]
    beyond_x: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Crossover:
    """Where one curve begins to cost more than another.

    Attributes:
        at: the size; None if there is none in range or it is not resolved.
        ci_low: lower end of its bootstrap interval; None where `at` is, or with too few rounds.
        ci_high: upper end.
        reason: the result, as a sentence.
    """

    at: float | None
    ci_low: float | None
    ci_high: float | None
    reason: str


def fit_cost(x: ArrayLike, cost: ArrayLike) -> CostFit:
    """Fit a cost against a size and judge the fits on held-out points.

    The upper octave (x above half the largest) is held out, and so is every second of the
    other points, the outermost two excepted.

    Args:
        x: [points] different sizes, not negative, at least four of them left to fit: 7 if each
            is twice the one before.
        cost: [points] cost at each, above 0.

    Raises:
        InputError: if shapes differ, values are out of range, or too few points are left to fit.
    """
    sizes, costs = _curve(x, cost)
    fitted, interleaved, beyond = _split(sizes, _MIN_FITTED)
    linear, quadratic = (_fit(sizes, costs, degree, fitted, interleaved, beyond) for degree in (1, 2))
    better = _worst(quadratic) < (1 - _WORTH_A_TERM) * _worst(linear)
    return CostFit(
        linear=linear,
        quadratic=quadratic,
        chosen=quadratic if better else linear,
        fitted_x=tuple(sizes[fitted].tolist()),
        interleaved_x=tuple(sizes[interleaved].tolist()),
        beyond_x=tuple(sizes[beyond].tolist()),
    )


def fit_scaled(x: ArrayLike, cost: ArrayLike, curve: ArrayLike) -> ScaledFit:
    """Fit a cost to a constant and a multiple of a given curve; points are held out as by `fit_cost`.

    For a cost whose curve theory predicts, including changes of slope, except for a constant and for how close a
    library comes to it.

    Args:
        x: [points] different sizes, not negative, at least three of them left to fit: 5 if each
            is twice the one before.
        cost: [points] cost at each, above 0.
        curve: [points] what theory gives for each, above 0, in any unit.

    Raises:
        InputError: if shapes differ, values are out of range, or too few points are left to fit.
    """
    sizes, costs = _curve(x, cost)
    _, shape = _curve(x, curve)
    fitted, interleaved, beyond = _split(sizes, _MIN_SCALED)
    solution, interleaved_error, beyond_error, r_squared = _solve(
        np.stack([np.ones_like(shape), shape / shape.max()], axis=1), costs, fitted, interleaved, beyond
    )
    return ScaledFit(
        float(solution[0]),
        float(solution[1] / shape.max()),
        interleaved_error,
        beyond_error,
        r_squared,
        tuple(sizes[fitted].tolist()),
        tuple(sizes[interleaved].tolist()),
        tuple(sizes[beyond].tolist()),
    )


def local_exponents(x: ArrayLike, cost: ArrayLike) -> NDArray[np.float64]:
    """The exponent between neighbouring points: d log cost / d log x (0 constant, 1 linear, 2 quadratic).

    Args:
        x: [points] different sizes above 0, at least 2.
        cost: [points] cost at each, above 0.

    Returns:
        [points - 1], in the order of rising sizes.

    Raises:
        InputError: if shapes differ or a value is not above 0.
    """
    sizes, costs = _curve(x, cost)
    if sizes.size < 2 or sizes[0] <= 0:
        raise InputError(f"sizes {[float(s) for s in sizes]}; an exponent needs two sizes above 0")
    return np.diff(np.log(costs)) / np.diff(np.log(sizes))


def find_crossover(
    x: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
) -> Crossover:
    """Where `first` stops being on one side of `second`: their log-ratio, straight between points, is 0.

    Args:
        x: [points] different sizes above 0, at least 2.
        first: [rounds, points] cost above 0.
        second: [rounds, points] cost above 0, of the same rounds.
        rng: draws the rounds.
        confidence: of the interval.

    Returns:
        The crossover; `at` is None if the curves do not cross in range, cross more than once, or
        if the resamples do not agree that they cross.

    Raises:
        InputError: if shapes differ or a value is not above 0.
    """
    log_x, pairs = _paired_curves(x, first, second)
    merged_by, autocorrelation = common_merge_factor(pairs)
    ratios = np.stack([np.log(p[:, 0] / p[:, 1]) for p in (merge_rounds(p, merged_by) for p in pairs)], axis=1)
    rounds = rounds_to_draw(ratios.shape[0], autocorrelation)
    at, crossings = _crossing(log_x, np.median(ratios, axis=0)[None])
    drawn = rng.integers(ratios.shape[0], size=(RESAMPLES, rounds or ratios.shape[0]))
    resampled_at, resampled_crossings = _crossing(log_x, np.median(ratios[drawn], axis=1))
    agree = float((resampled_crossings == crossings[0]).mean())
    low_x, high_x = float(np.exp(log_x[0])), float(np.exp(log_x[-1]))
    span = f"from {short(low_x)} to {short(high_x)}"
    if rounds and agree < confidence:
        return Crossover(
            None, None, None, f"not resolved {span}: only {agree:.0%} of resamples agree whether they cross"
        )
    if crossings[0] == 0:
        return Crossover(None, None, None, f"none in range {span}")
    if crossings[0] > 1:
        return Crossover(None, None, None, f"not resolved {span}: the curves cross {crossings[0]} times")
    estimate = float(np.exp(at[0]))
    if not rounds:
        return Crossover(estimate, None, None, why_none(ratios.shape[0], autocorrelation))
    low, high = percentile_interval(resampled_at[resampled_crossings == 1], confidence=confidence)
    return Crossover(estimate, float(np.exp(low)), float(np.exp(high)), f"one crossover {span}")


def _crossing(
    log_x: NDArray[np.float64], log_ratio: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """[batch, points] -> log x of the first change of side (nan without one), and how many there are.

    A point on the line takes the side of the one before it, so that touching is not crossing.
    """
    side = np.sign(log_ratio)
    for i in range(1, side.shape[1]):
        side[:, i] = np.where(side[:, i] == 0, side[:, i - 1], side[:, i])
    changes = side[:, 1:] * side[:, :-1] < 0
    count = changes.sum(axis=1)
    i, row = changes.argmax(axis=1), np.arange(side.shape[0])
    before, after = log_ratio[row, i], log_ratio[row, i + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        at = log_x[i] + before / (before - after) * (log_x[i + 1] - log_x[i])
    return np.where(count > 0, at, np.nan), count


def _fit(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    degree: int,
    fitted: NDArray[np.bool_],
    interleaved: NDArray[np.bool_],
    beyond: NDArray[np.bool_],
) -> PolynomialFit:
    scale = x[fitted].max()  # keeps the columns of the least squares of like size
    powers = np.vander(x / scale, degree + 1, increasing=True)
    scaled, interleaved_error, beyond_error, r_squared = _solve(powers, y, fitted, interleaved, beyond)
    return PolynomialFit(
        coefficients=tuple(float(c) for c in scaled / scale ** np.arange(degree + 1)),
        interleaved_error=interleaved_error,
        beyond_error=beyond_error,
        r_squared=r_squared,
    )


def _solve(
    columns: NDArray[np.float64],
    y: NDArray[np.float64],
    fitted: NDArray[np.bool_],
    interleaved: NDArray[np.bool_],
    beyond: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], float, float, float]:
    """Least squares of relative errors: a factor for each column, the two held-out errors, and R^2."""
    factors = np.linalg.lstsq(columns[fitted] / y[fitted, None], np.ones(int(fitted.sum())), rcond=None)[0]
    error = np.abs(columns @ factors - y) / y
    residuals, deviations = (columns @ factors - y)[fitted], y[fitted] - y[fitted].mean()
    spread = float((deviations**2).sum())
    r_squared = 1 - float((residuals**2).sum()) / spread if spread > 0 else 1.0
    return np.asarray(factors, dtype=np.float64), float(error[interleaved].max()), float(error[beyond].max()), r_squared


def _split(sizes: NDArray[np.float64], least: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of rising sizes are fitted, held out between those, and held out in the octave beyond."""
    beyond = sizes > sizes[-1] / 2
    interleaved = np.zeros_like(beyond)
    interleaved[1 : beyond.argmax() - 1 : 2] = True
    fitted = ~beyond & ~interleaved
    if fitted.sum() < least or not interleaved.any():
        raise InputError(
            f"sizes {[float(s) for s in sizes]} leave {int(fitted.sum())} to fit beside the held-out ones; "
            f"{least} are needed, so measure more sizes below half the largest"
        )
    return fitted, interleaved, beyond


def _worst(fit: PolynomialFit) -> float:
    return max(fit.interleaved_error, fit.beyond_error)


def _curve(x: ArrayLike, cost: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as rows, in the order of rising sizes."""
    sizes, costs = np.asarray(x, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if sizes.ndim != 1 or sizes.shape != costs.shape or sizes.size == 0:
        raise InputError(f"sizes of shape {sizes.shape} and costs of {costs.shape}; one cost per size is needed")
    order = np.argsort(sizes)
    _check_curve(sizes[order], costs)
    return sizes[order], costs[order]


def _paired_curves(
    x: ArrayLike, first: ArrayLike, second: ArrayLike
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Log x [points] and the costs [rounds, 2] at each point, in the order of rising sizes."""
    sizes = np.asarray(x, dtype=np.float64)
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if sizes.ndim != 1 or sizes.size < 2 or a.ndim != 2 or a.shape != b.shape or a.shape[1] != sizes.size:
        raise InputError(f"shapes {sizes.shape}, {a.shape}, {b.shape}; [points] and twice [rounds, points] are needed")
    order = np.argsort(sizes)
    _check_curve(sizes[order], np.concatenate([a, b]))
    if sizes.min() <= 0:
        raise InputError(f"size {short(sizes.min())}; a crossover is sought among sizes above 0")
    return np.log(sizes[order]), [np.stack([a[:, i], b[:, i]], axis=1) for i in order]


def _check_curve(ordered: NDArray[np.float64], costs: NDArray[np.float64]) -> None:
    if not np.isfinite(ordered).all() or ordered[0] < 0 or (np.diff(ordered) == 0).any():
        raise InputError("sizes must be finite, not negative, and each given once")
    if not np.isfinite(costs).all() or (costs <= 0).any():
        raise InputError("a cost is not finite or not above 0; every size must have been measured")
