"""Curves through the points of `cache`: fitted to some of them, judged on the others.

That is the law "fits are judged on held-out points".

With a cache a line. Without one two forms: the polynomial that counts powers, and a + kappa T(S), whose shape is
theory's own prediction; that one is claimed, because T knows beforehand where scores leave a cache and where a
library turns to another kernel, and no power of S does. No measuring and no words here.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.stats import CostFit, PolynomialFit, ScaledFit, fit_cost, fit_scaled, local_exponents

WITH, WITHOUT = "with", "without"


class Memory(msgspec.Struct, kw_only=True):
    """The bytes of the cache at one context; None where there is no formula, or nothing was measured.

    Attributes:
        S: positions held before the step.
        cache_bytes: of those positions, from the live buffers.
        cache_bytes_allocated: the live buffers whole.
        theory_bytes: from the shapes.
        theory_bytes_allocated: likewise.
        rss_growth_bytes: pages of the buffers that a fresh process has touched after a prefill of S.
        rss_page_bound_bytes: what whole pages make of the used bytes.
    """

    S: int
    cache_bytes: int
    cache_bytes_allocated: int
    theory_bytes: int | None
    theory_bytes_allocated: int | None
    rss_growth_bytes: int | None
    rss_page_bound_bytes: int | None


class Point(Memory, kw_only=True):
    """One context: bytes of the cache, and a decode step with and without it; None where it was not measured.

    Attributes:
        per_token_ms_with_cache: the decode step, median over rounds normalised by round speed.
        with_cache_low_ms: lower end of its 95 % interval.
        with_cache_high_ms: upper end.
        with_cache_repetitions: timed steps behind it.
        theory_ms_with_cache: predicted from shapes and measured ceilings, nothing fitted.
    """

    per_token_ms_with_cache: float | None
    with_cache_low_ms: float | None
    with_cache_high_ms: float | None
    with_cache_repetitions: int
    theory_ms_with_cache: float | None
    per_token_ms_without_cache: float | None
    without_cache_low_ms: float | None
    without_cache_high_ms: float | None
    without_cache_repetitions: int
    theory_ms_without_cache: float | None


class Fit(msgspec.Struct, kw_only=True):
    """A curve fitted to some of the points and judged on the others.

    Attributes:
        form: in letters.
        claimed: whether it is the form that theory names beforehand, and not one that stands beside it.
        coefficients_ms: of S^0, S^1 (and S^2); with theory's curve a in ms, and kappa, which has no unit.
        held_out_errors: context -> relative error of the fit at a point that it has not seen.
        interleaved_error: the largest between the fitted points.
        beyond_error: the largest in the octave beyond them.
        r_squared: of the fitted points; it decides nothing.
        local_exponents: d log T / d log S between neighbours.
        predicted_ms: at every context.
        reason: why there is no fit, or empty.
    """

    form: str
    claimed: bool
    coefficients_ms: list[float]
    fitted_S: list[int]
    held_out_errors: dict[str, float]
    interleaved_error: float | None
    beyond_error: float | None
    r_squared: float | None
    local_exponents: list[float]
    predicted_ms: dict[str, float]
    reason: str


class Square(msgspec.Struct, kw_only=True):
    """T = gamma S^2, which textbooks give for decoding without a cache, fitted to the lower half of the contexts."""

    gamma_ms: float
    fitted_S: list[int]
    ratio_at_largest: float
    largest_S: int


def times_of(points: Sequence[Point], arm: str) -> tuple[list[int], list[float]]:
    """Contexts at which an arm was measured, and its steps in ms."""
    pairs = [(p.S, p.per_token_ms_with_cache if arm == WITH else p.per_token_ms_without_cache) for p in points]
    measured = [(S, ms) for S, ms in pairs if ms is not None]
    return [S for S, _ in measured], [ms for _, ms in measured]


def theory_of(points: Sequence[Point], arm: str) -> list[float]:
    """Theory in ms at the contexts of `times_of`; empty where there is none."""
    pairs = [
        (p.per_token_ms_with_cache, p.theory_ms_with_cache)
        if arm == WITH
        else (p.per_token_ms_without_cache, p.theory_ms_without_cache)
        for p in points
    ]
    return [theory for measured, theory in pairs if measured is not None and theory is not None]


def fit_polynomial(points: Sequence[Point], arm: str) -> Fit:
    """With a cache a + b S; without one a + b S + c S^2 (law "fits are judged on held-out points")."""
    S, ms = times_of(points, arm)
    form = "α + β·S" if arm == WITH else "a + b·S + c·S²"
    claimed = arm == WITH or not theory_of(points, WITHOUT)
    try:
        both = fit_cost(S, ms)
    except InputError as error:
        return _no_fit(form, claimed, S, ms, str(error))
    fit: PolynomialFit = both.linear if arm == WITH else both.quadratic
    return _judged(form, claimed, S, ms, fit, list(fit.coefficients), fit.predict(S), both)


def fit_by_theory(points: Sequence[Point]) -> Fit | None:
    """Without a cache a + kappa T(S), T being theory's own prediction; None without one."""
    S, ms = times_of(points, WITHOUT)
    theory_ms = theory_of(points, WITHOUT)
    if not theory_ms:
        return None
    form = "a + κ·T(S)"
    try:
        fit = fit_scaled(S, ms, theory_ms)
    except InputError as error:
        return _no_fit(form, True, S, ms, str(error))
    return _judged(form, True, S, ms, fit, [fit.offset, fit.scale], fit.predict(theory_ms), fit)


def _judged(
    form: str,
    claimed: bool,
    S: Sequence[int],
    ms: Sequence[float],
    fit: PolynomialFit | ScaledFit,
    coefficients: list[float],
    predicted_ms: NDArray[np.float64],
    split: CostFit | ScaledFit,
) -> Fit:
    predicted = dict(zip(S, predicted_ms.tolist(), strict=True))
    measured = dict(zip(S, ms, strict=True))
    held_out = [int(x) for x in (*split.interleaved_x, *split.beyond_x)]
    return Fit(
        form=form,
        claimed=claimed,
        coefficients_ms=coefficients,
        fitted_S=[int(x) for x in split.fitted_x],
        held_out_errors={str(x): predicted[x] / measured[x] - 1 for x in held_out},
        interleaved_error=fit.interleaved_error,
        beyond_error=fit.beyond_error,
        r_squared=fit.r_squared,
        local_exponents=local_exponents(S, ms).tolist(),
        predicted_ms={str(x): y for x, y in predicted.items()},
        reason="",
    )


def _no_fit(form: str, claimed: bool, S: Sequence[int], ms: Sequence[float], reason: str) -> Fit:
    return Fit(
        form=form,
        claimed=claimed,
        coefficients_ms=[],
        fitted_S=[],
        held_out_errors={},
        interleaved_error=None,
        beyond_error=None,
        r_squared=None,
        local_exponents=local_exponents(S, ms).tolist() if len(S) > 1 else [],
        predicted_ms={},
        reason=reason,
    )


def fit_square(points: Sequence[Point]) -> Square | None:
    """Least squares of gamma S^2 on the lower half of the contexts, relative as timing noise is."""
    S, ms = times_of(points, WITHOUT)
    half = len(S) // 2
    if half < 2:
        return None
    x = np.array(S[:half], np.float64) ** 2 / np.array(ms[:half])
    gamma = float(x.sum() / (x * x).sum())
    return Square(gamma_ms=gamma, fitted_S=S[:half], ratio_at_largest=gamma * S[-1] ** 2 / ms[-1], largest_S=S[-1])
