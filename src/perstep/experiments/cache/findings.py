"""What `cache` finds: bytes and milliseconds at each context, and the curves fitted to them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.bounds import BACKENDS, EXCEEDED, backend_for, rates_between, rates_from
from perstep.experiments.cache.fits import (
    WITH,
    WITHOUT,
    Fit,
    Memory,
    Point,
    Square,
    fit_by_theory,
    fit_polynomial,
    fit_square,
    theory_of,
    times_of,
)
from perstep.experiments.cache.samples import Conditions, Sample, Workload, stacked
from perstep.experiments.columns import too_few, why_unresolved
from perstep.experiments.conditions import typed
from perstep.machine import NoiseSummary, SweepCeilings, summarise_noise, sweep_ceilings
from perstep.runs import Manifest
from perstep.stats import find_crossover, merge_until_independent, merged_interval, round_slowdown
from perstep.theory import (
    Precision,
    StepBound,
    StepCost,
    cached_layers,
    decode,
    kv_bytes,
    prefill,
    roofline_ns,
    shape_of,
    step_bound,
    step_cost,
)

CROSSOVER_SEED = 7
HALF = 0.5
ATTENTION = ("attn.mask.build", "attn.scores", "attn.mask.apply", "attn.softmax", "attn.pv")


class CacheFindings(msgspec.Struct, kw_only=True):
    """`results.json`.

    Without a cache two curves are fitted: the polynomial a + b S + c S^2, and a + kappa T(S) with T as theory has it
    (None where it has none). The second is the claim wherever there is one: T bends where scores leave a cache and
    where a library turns to another kernel, so only what it leaves out (a) and how near its ceilings a library comes
    (kappa) are fitted.

    `arithmetic_from_S` and `attention_from_S`: where, by theory, a step without a cache begins to spend more than half
    of its time on arithmetic (below, on reading weights and on calls), and more than half on attention; None where
    that does not happen between two contexts, or theory has no curve.

    Theory predicts from the medians of the ceilings, over their rounds as the steps are over theirs.
    `theory_withdrawn`: arm -> why it has no curve although theory has a formula: the ceilings were disturbed, a step
    was faster than their best rounds allow, or what a layer computes is unknown.
    """

    points: list[Point]
    with_cache: Fit
    without_cache: Fit
    without_cache_by_theory: Fit | None
    square: Square | None
    crossover_S: float | None
    crossover_low_S: float | None
    crossover_high_S: float | None
    crossover: str
    memory_max_relative_error_to_theory: float | None
    theory_median_error_with_cache: float | None
    theory_median_error_without_cache: float | None
    arithmetic_from_S: float | None
    attention_from_S: float | None
    theory_withdrawn: dict[str, str]
    ceilings: SweepCeilings | None
    left_out: list[str]
    noise: NoiseSummary
    unresolved: str = ""
    invalid: str = ""


def estimates(
    points: Mapping[tuple[str, int], NDArray[np.float64]],
) -> dict[tuple[str, int], tuple[float, float | None, float | None]]:
    """(arm, context) -> median over rounds normalised by their speed and its interval (95 % together), in ns."""
    slowdown = round_slowdown(np.stack(list(points.values()), axis=1))
    by_point = {}
    for key, step_ns in points.items():
        normalised_ns = step_ns / slowdown
        merged = merge_until_independent(normalised_ns[:, None], lambda x: np.log(x[:, 0]), comparisons=len(points))
        interval = merged_interval(merged, comparisons=len(points))
        low, high = (None, None) if interval is None else (float(np.exp(interval.low)), float(np.exp(interval.high)))
        by_point[key] = (float(np.median(normalised_ns)), low, high)
    return by_point


def widest(by_point: Mapping[tuple[str, int], tuple[float, float | None, float | None]]) -> float:
    """The largest half-width of an interval, as a share of its step; inf while one is missing."""
    widths = [
        np.inf if low is None or high is None else (high - low) / 2 / middle for middle, low, high in by_point.values()
    ]
    return float(max(widths))


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> CacheFindings:
    """Points, fits, crossover and theory.

    Raises:
        InputError: there are no samples, or they do not hold what they should.
    """
    conditions, workload = typed(manifest, Conditions), typed(manifest, Workload)
    points = stacked(samples)
    by_point = estimates(points)
    width = widest(by_point)
    missing = too_few(len(samples)) if width == np.inf else ""
    ceilings = sweep_ceilings([each for s in samples for each in s.ceilings], [s.noise for s in samples])
    bounds, withdrawn = _bounds(conditions, workload, ceilings, {key: ns for key, (ns, _, _) in by_point.items()})
    theory = {key: bound.bound_ns / 1e6 for key, bound in bounds.items()}
    uncached = {S: bound for (arm, S), bound in bounds.items() if arm == WITHOUT}
    repetitions = {key: sum(len(s.step_ns[key[0]][str(key[1])]) for s in samples) for key in points}
    rows = [_point(each, by_point, repetitions, theory) for each in conditions.memory]
    crossover, low, high, words = _crossover(points, by_point)
    used = [
        (p.cache_bytes, p.theory_bytes, p.cache_bytes_allocated, p.theory_bytes_allocated)
        for p in rows
        if p.theory_bytes is not None and p.theory_bytes_allocated is not None
    ]
    return CacheFindings(
        points=rows,
        with_cache=fit_polynomial(rows, WITH),
        without_cache=fit_polynomial(rows, WITHOUT),
        without_cache_by_theory=fit_by_theory(rows),
        square=fit_square(rows),
        crossover_S=crossover,
        crossover_low_S=low,
        crossover_high_S=high,
        crossover=words,
        memory_max_relative_error_to_theory=max(
            (max(abs(a - b) / b, abs(c - d) / d) for a, b, c, d in used), default=None
        ),
        theory_median_error_with_cache=_theory_error(rows, WITH),
        theory_median_error_without_cache=_theory_error(rows, WITHOUT),
        arithmetic_from_S=_half({S: _arithmetic(bound) for S, bound in uncached.items()}),
        attention_from_S=_half({S: _attention(bound) for S, bound in uncached.items()}),
        theory_withdrawn=withdrawn,
        ceilings=ceilings,
        left_out=conditions.left_out,
        noise=summarise_noise(sample.noise for sample in samples),
        unresolved=why_unresolved(missing, width, conditions.precision),
    )


def _point(
    memory: Memory,
    by_point: Mapping[tuple[str, int], tuple[float, float | None, float | None]],
    repetitions: Mapping[tuple[str, int], int],
    theory: Mapping[tuple[str, int], float],
) -> Point:
    S = memory.S
    ms = {
        arm: [None if ns is None else ns / 1e6 for ns in by_point.get((arm, S), (None, None, None))]
        for arm in (WITH, WITHOUT)
    }
    return Point(
        **msgspec.structs.asdict(memory),
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


def step_costs(conditions: Conditions, w: Workload) -> dict[tuple[str, int], StepCost]:
    """(arm, context) -> the `StepCost` of a step; empty where theory has no formula for the model."""
    shape = shape_of(conditions.config)
    if shape is None:
        return {}
    precision = Precision.all(w.dtype)
    backend = backend_for(BACKENDS[conditions.backend], shape)
    uncached = backend_for(BACKENDS[conditions.backend_without], shape)
    costs = {}
    for S in w.contexts:
        costs[WITH, S] = step_cost(shape, decode(S, batch=w.batch, capacity=w.capacity), precision, backend)
        costs[WITHOUT, S] = step_cost(shape, prefill(S + 1, batch=w.batch), precision, uncached)
    return costs


def theory_bytes(conditions: Conditions, w: Workload, S: int) -> tuple[int | None, int | None]:
    """Used and allocated bytes of the cache at a context, from the shapes."""
    try:
        layers = cached_layers(conditions.config)
    except InputError:  # no formula for this architecture
        return None, None
    both = kv_bytes(layers, S, capacity=w.capacity, batch=w.batch, dtype=w.dtype)
    return both.used, both.allocated


def _bounds(
    conditions: Conditions,
    workload: Workload,
    ceilings: SweepCeilings | None,
    step_ns: Mapping[tuple[str, int], float],
) -> tuple[dict[tuple[str, int], StepBound], dict[str, str]]:
    """(arm, context) -> what theory says, part by part; and of each arm of which it may say nothing, why.

    Args:
        conditions: of the run.
        workload: of the run.
        ceilings: of its rounds.
        step_ns: what was measured: a step below its bound proves the ceilings of its arm wrong.
    """
    if conditions.unknown_arithmetic:
        return {}, dict.fromkeys((WITH, WITHOUT), conditions.unknown_arithmetic)
    costs = step_costs(conditions, workload)
    if ceilings is None or not costs:
        return {}, {}
    if reason := ceilings.why_no_medians():
        return {}, dict.fromkeys((WITH, WITHOUT), reason)
    dtype = workload.dtype
    best, typical = rates_between(ceilings, dtype)[0], rates_from(ceilings.typical, dtype)
    roofs = {key: sum(roofline_ns(part, best, dtype) for part in cost.parts.values()) for key, cost in costs.items()}
    beaten = [key for key, ns in step_ns.items() if ns < roofs[key]]
    withdrawn = {arm: f"{EXCEEDED}: the step at S = {S:,} is faster than their best rounds allow" for arm, S in beaten}
    return {key: step_bound(cost, typical) for key, cost in costs.items() if key[0] not in withdrawn}, withdrawn


def _attention(bound: StepBound) -> float:
    """The share of a step that grows with the square of its length."""
    return sum(part.bound_ns for name, part in bound.parts.items() if name in ATTENTION) / bound.bound_ns


def _arithmetic(bound: StepBound) -> float:
    """The share of a step in which arithmetic takes longer than moving its operands."""
    busy = sum(part.compute_ns for part in bound.parts.values() if part.compute_ns >= part.bandwidth_ns)
    return busy / bound.bound_ns


def _half(shares: Mapping[int, float]) -> float | None:
    """Where a share first passes one half, straight between neighbours over the logarithm of S; None if nowhere."""
    for (S, share), (next_S, next_share) in pairwise(sorted(shares.items())):
        if share < HALF <= next_share:
            return float(S * (next_S / S) ** ((HALF - share) / (next_share - share)))
    return None


def _theory_error(points: Sequence[Point], arm: str) -> float | None:
    theory = theory_of(points, arm)
    if not theory:
        return None
    _, measured = times_of(points, arm)
    errors = [abs(expected - ms) / ms for ms, expected in zip(measured, theory, strict=True)]
    return float(np.median(errors)) if errors else None


def _crossover(
    points: Mapping[tuple[str, int], NDArray[np.float64]],
    by_point: Mapping[tuple[str, int], tuple[float, float | None, float | None]],
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
        faster = by_point[WITH, S[0]][0] < by_point[WITHOUT, S[0]][0]
        side = f"cached is faster from S = {S[0]}" if faster else f"cached is slower up to S = {S[-1]}"
        return None, None, None, f"none in range: {side}"
    return None, None, None, crossing.reason
