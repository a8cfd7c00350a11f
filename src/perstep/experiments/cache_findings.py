"""What the rounds of `cache` say: points, fits judged on held-out points, the crossover, and theory beside them.

Pure functions of manifest and samples. Measured, fitted and predicted stay apart (law 13): a point is measured, a fit
has seen only some of the points, theory has seen none of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.bounds import BACKENDS, backend_for, rates_from, shape_of
from perstep.machine import LadderFigures, Noise, NoiseSummary, ladder_figures, summarise_noise
from perstep.runs import Column, Manifest
from perstep.stats import (
    PolynomialFit,
    find_crossover,
    fit_cost,
    local_exponents,
    merge_until_independent,
    merged_interval,
    round_pace,
)
from perstep.theory import Precision, decode, kv_bytes, prefill, step_bound, step_cost

WITH, WITHOUT = "with", "without"
CROSSOVER_SEED = 7


class Sample(msgspec.Struct):
    """One round: each point visited twice, in an order and then in the reverse.

    Attributes:
        round: its number.
        step_ns: `with` or `without` -> context -> the repetitions of both visits, the discarded ones left out.
        ceilings: what the ladder of ceilings found in this round, by arm; both visits.
        noise: of the round.
    """

    round: int
    step_ns: dict[str, dict[str, Column]]
    ceilings: list[dict[str, float]]
    noise: Noise


class Point(msgspec.Struct, kw_only=True):
    """One context: bytes of the cache, and a decode step with and without it; None where it was not measured.

    Attributes:
        S: positions held before the step.
        cache_bytes: of those positions, from the live buffers.
        cache_bytes_allocated: the live buffers whole.
        theory_bytes: from the shapes.
        theory_bytes_allocated: likewise.
        rss_growth_bytes: pages of the buffers that a fresh process has touched after a prefill of S.
        rss_page_bound_bytes: what whole pages make of the used bytes.
        per_token_ms_with_cache: the decode step, median over rounds at one pace.
        with_cache_low_ms: lower end of its 95 % interval.
        with_cache_high_ms: upper end.
        with_cache_repetitions: timed steps behind it.
        theory_ms_with_cache: predicted from shapes and measured ceilings, nothing fitted.
    """

    S: int
    cache_bytes: int
    cache_bytes_allocated: int
    theory_bytes: int | None
    theory_bytes_allocated: int | None
    rss_growth_bytes: int | None
    rss_page_bound_bytes: int | None
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
    """A curve fitted to some of the points and judged on the others; coefficients in ms, of S^0, S^1 (and S^2).

    Attributes:
        form: in letters.
        held_out_errors: context -> relative error of the fit at a point that it has not seen.
        interleaved_error: the largest between the fitted points.
        beyond_error: the largest in the octave beyond them.
        r_squared: of the fitted points; it decides nothing.
        local_exponents: d log T / d log S between neighbours.
        predicted_ms: at every context.
        reason: why there is no fit, or empty.
    """

    form: str
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


class CacheFindings(msgspec.Struct, kw_only=True):
    """`results.json`."""

    points: list[Point]
    with_cache: Fit
    without_cache: Fit
    square: Square | None
    crossover_S: float | None
    crossover_low_S: float | None
    crossover_high_S: float | None
    crossover: str
    memory_max_relative_error_to_theory: float | None
    theory_median_error_with_cache: float | None
    theory_median_error_without_cache: float | None
    ceilings: LadderFigures | None
    left_out: list[str]
    noise: NoiseSummary
    unresolved: str = ""
    invalid: str = ""


def stacked(samples: Sequence[Sample]) -> dict[tuple[str, int], NDArray[np.float64]]:
    """(arm, context) -> the round's median step in ns, [rounds]; points that every round holds.

    Raises:
        InputError: there are no samples, or a point without repetitions.
    """
    if not samples:
        raise InputError("the run has no finished round; resume it with --resume, or measure again")
    found = {}
    for arm in (WITH, WITHOUT):
        contexts = set.intersection(*(set(sample.step_ns.get(arm, {})) for sample in samples))
        for context in sorted(contexts, key=int):
            rounds = [sample.step_ns[arm][context] for sample in samples]
            if not all(len(each) and each.min() > 0 for each in rounds):
                raise InputError(
                    f"a step {arm} a cache at context {context} has no duration; restore the file, or measure again"
                )
            found[arm, int(context)] = np.array([np.median(each) for each in rounds])
    return found


def estimates(
    points: Mapping[tuple[str, int], NDArray[np.float64]],
) -> dict[tuple[str, int], tuple[float, float | None, float | None]]:
    """(arm, context) -> median over rounds brought to one pace, and its interval (95 % for all together), in ns."""
    pace = round_pace(np.stack(list(points.values()), axis=1))
    found = {}
    for key, step_ns in points.items():
        paced = step_ns / pace
        merged = merge_until_independent(paced[:, None], lambda x: np.log(x[:, 0]), comparisons=len(points))
        interval = merged_interval(merged, comparisons=len(points))
        low, high = (None, None) if interval is None else (float(np.exp(interval.low)), float(np.exp(interval.high)))
        found[key] = (float(np.median(paced)), low, high)
    return found


def widest(found: Mapping[tuple[str, int], tuple[float, float | None, float | None]]) -> float:
    """The largest half-width of an interval, as a share of its step; inf while one is missing."""
    widths = [
        np.inf if low is None or high is None else (high - low) / 2 / middle for middle, low, high in found.values()
    ]
    return float(max(widths))


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> CacheFindings:
    """Points, fits, crossover and theory.

    Raises:
        InputError: there are no samples, or they do not hold what they should.
    """
    points = stacked(samples)
    found = estimates(points)
    figures = ladder_figures([each for sample in samples for each in sample.ceilings])
    theory = _theory(manifest, figures)
    memory = manifest.conditions["memory"]
    repetitions = {key: sum(len(s.step_ns[key[0]][str(key[1])]) for s in samples) for key in points}
    made = [_point(each, found, repetitions, theory) for each in memory]
    crossover, low, high, words = _crossover(points, found)
    used = [
        (p.cache_bytes, p.theory_bytes, p.cache_bytes_allocated, p.theory_bytes_allocated)
        for p in made
        if p.theory_bytes is not None and p.theory_bytes_allocated is not None
    ]
    return CacheFindings(
        points=made,
        with_cache=_fit(made, WITH),
        without_cache=_fit(made, WITHOUT),
        square=_square(made),
        crossover_S=crossover,
        crossover_low_S=low,
        crossover_high_S=high,
        crossover=words,
        memory_max_relative_error_to_theory=max(
            (max(abs(a - b) / b, abs(c - d) / d) for a, b, c, d in used), default=None
        ),
        theory_median_error_with_cache=_theory_error(made, WITH),
        theory_median_error_without_cache=_theory_error(made, WITHOUT),
        ceilings=figures,
        left_out=manifest.conditions["left_out"],
        noise=summarise_noise(sample.noise for sample in samples),
        unresolved=_unresolved(widest(found), manifest.conditions["precision"], len(samples)),
    )


def times_of(points: Sequence[Point], arm: str) -> tuple[list[int], list[float]]:
    """Contexts at which an arm was measured, and its steps in ms."""
    pairs = [(p.S, p.per_token_ms_with_cache if arm == WITH else p.per_token_ms_without_cache) for p in points]
    measured = [(S, ms) for S, ms in pairs if ms is not None]
    return [S for S, _ in measured], [ms for _, ms in measured]


def _point(
    memory: Mapping[str, Any],
    found: Mapping[tuple[str, int], tuple[float, float | None, float | None]],
    repetitions: Mapping[tuple[str, int], int],
    theory: Mapping[tuple[str, int], float],
) -> Point:
    S = memory["S"]
    ms = {
        arm: [None if ns is None else ns / 1e6 for ns in found.get((arm, S), (None, None, None))]
        for arm in (WITH, WITHOUT)
    }
    return Point(
        **memory,
        per_token_ms_with_cache=ms[WITH][0],
        with_cache_low_ms=ms[WITH][1],
        with_cache_high_ms=ms[WITH][2],
        with_cache_repetitions=repetitions.get((WITH, S), 0),
        theory_ms_with_cache=theory.get((WITH, S)),
        per_token_ms_without_cache=ms[WITHOUT][0],
        without_cache_low_ms=ms[WITHOUT][1],
        without_cache_high_ms=ms[WITHOUT][2],
        without_cache_repetitions=repetitions.get((WITHOUT, S), 0),
        theory_ms_without_cache=theory.get((WITHOUT, S)),
    )


def step_costs(manifest: Manifest) -> dict[tuple[str, int], Any]:
    """(arm, context) -> the `StepCost` of a step; empty where theory has no formula for the model."""
    shape = shape_of(manifest.conditions["config"])
    if shape is None:
        return {}
    w = manifest.workload
    precision, capacity = Precision.all(w["dtype"]), w["capacity"]
    backend = backend_for(BACKENDS[manifest.conditions["backend"]], shape)
    uncached = backend_for(BACKENDS[manifest.conditions["backend_without"]], shape)
    costs = {}
    for S in w["contexts"]:
        costs[WITH, S] = step_cost(shape, decode(S, batch=w["batch"], capacity=capacity), precision, backend)
        costs[WITHOUT, S] = step_cost(shape, prefill(S + 1, batch=w["batch"]), precision, uncached)
    return costs


def theory_bytes(manifest: Manifest, S: int) -> tuple[int | None, int | None]:
    """Used and allocated bytes of the cache at a context, from the shapes."""
    shape, w = shape_of(manifest.conditions["config"]), manifest.workload
    if shape is None:
        return None, None
    both = kv_bytes(shape, S, capacity=w["capacity"], batch=w["batch"], dtype=w["dtype"])
    return both.used, both.allocated


def _theory(manifest: Manifest, figures: LadderFigures | None) -> dict[tuple[str, int], float]:
    """(arm, context) -> ms."""
    if figures is None:
        return {}
    rates = rates_from(figures, manifest.workload["dtype"])
    return {key: step_bound(cost, rates).bound_ns / 1e6 for key, cost in step_costs(manifest).items()}


def _theory_error(points: Sequence[Point], arm: str) -> float | None:
    pairs = [
        (p.per_token_ms_with_cache, p.theory_ms_with_cache)
        if arm == WITH
        else (p.per_token_ms_without_cache, p.theory_ms_without_cache)
        for p in points
    ]
    errors = [abs(theory - measured) / measured for measured, theory in pairs if measured and theory]
    return float(np.median(errors)) if errors else None


def _fit(points: Sequence[Point], arm: str) -> Fit:
    """With a cache a + b S; without one a + b S + c S^2 (law 10)."""
    S, ms = times_of(points, arm)
    form = "α + β·S" if arm == WITH else "a + b·S + c·S²"
    exponents = local_exponents(S, ms).tolist() if len(S) > 1 else []
    try:
        both = fit_cost(S, ms)
    except InputError as error:
        return Fit(
            form=form,
            coefficients_ms=[],
            fitted_S=[],
            held_out_errors={},
            interleaved_error=None,
            beyond_error=None,
            r_squared=None,
            local_exponents=exponents,
            predicted_ms={},
            reason=str(error),
        )
    fit: PolynomialFit = both.linear if arm == WITH else both.quadratic
    predicted = dict(zip(S, fit.predict(S).tolist(), strict=True))
    held_out = [int(x) for x in (*both.interleaved_x, *both.beyond_x)]
    measured = dict(zip(S, ms, strict=True))
    return Fit(
        form=form,
        coefficients_ms=list(fit.coefficients),
        fitted_S=[int(x) for x in both.fitted_x],
        held_out_errors={str(x): predicted[x] / measured[x] - 1 for x in held_out},
        interleaved_error=fit.interleaved_error,
        beyond_error=fit.beyond_error,
        r_squared=fit.r_squared,
        local_exponents=exponents,
        predicted_ms={str(x): y for x, y in predicted.items()},
        reason="",
    )


def _square(points: Sequence[Point]) -> Square | None:
    """Least squares of gamma S^2 on the lower half of the contexts, relative as timing noise is."""
    S, ms = times_of(points, WITHOUT)
    half = len(S) // 2
    if half < 2:
        return None
    x = np.array(S[:half], np.float64) ** 2 / np.array(ms[:half])
    gamma = float(x.sum() / (x * x).sum())
    return Square(gamma_ms=gamma, fitted_S=S[:half], ratio_at_largest=gamma * S[-1] ** 2 / ms[-1], largest_S=S[-1])


def _crossover(
    points: Mapping[tuple[str, int], NDArray[np.float64]],
    found: Mapping[tuple[str, int], tuple[float, float | None, float | None]],
) -> tuple[float | None, float | None, float | None, str]:
    """Where the cache begins to pay off, its interval, and what was found in words."""
    S = [context for arm, context in points if arm == WITH and (WITHOUT, context) in points]
    if len(S) < 2:
        return None, None, None, "not looked for: it needs two contexts measured both with and without a cache"
    first, second = (np.stack([points[arm, context] for context in S], axis=1) for arm in (WITHOUT, WITH))
    crossing = find_crossover(S, first, second, np.random.default_rng(CROSSOVER_SEED))
    if crossing.at is not None:
        return crossing.at, crossing.ci_low, crossing.ci_high, f"{crossing.reason}: with a cache faster beyond it"
    if crossing.reason.startswith("none"):
        faster = found[WITH, S[0]][0] < found[WITHOUT, S[0]][0]
        side = f"cached is faster from S = {S[0]}" if faster else f"cached is slower up to S = {S[-1]}"
        return None, None, None, f"none in range: {side}"
    return None, None, None, crossing.reason


def _unresolved(width: float, precision: float | None, rounds: int) -> str:
    if width == np.inf:
        return (
            f"{rounds} rounds are too few for intervals, or resemble their neighbours too much; give a longer --budget"
        )
    if precision is not None and width > precision:
        return (
            f"the widest interval is ±{width:.2%} of its step, ±{precision:.2%} was asked for; give a longer --budget"
        )
    return ""
