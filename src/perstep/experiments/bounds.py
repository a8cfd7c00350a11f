"""Bounds from ceilings that were measured in the same rounds: `perstep.theory` with the current rates of this machine.

A part's bound is max(FLOPs / peak, bytes / bandwidth) + calls x overhead of a call, with no constant fitted to the
measured steps. Bandwidth is measured at the footprints themselves. Ceilings have an interval, from their median over
rounds to their best round; a bound uses best rounds. This module knows shapes and ceilings, no samples.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil, isqrt

from perstep._words import short
from perstep.machine import NEAREST_BYTES, CeilingSweep, SweepCeilings, SweepFigures
from perstep.theory import (
    REFERENCE,
    TRANSFORMERS,
    TRANSFORMERS_EAGER,
    TRANSFORMERS_STATIC,
    Backend,
    Level,
    ModelShape,
    Rates,
    StepCost,
    bytes_each,
)

EXCEEDED = "ceilings exceeded; not judged"
"""Printed instead of a bound if a part was faster than the best rounds of the ceilings allow."""
BEATEN = "faster than its bound; not judged"
"""In place of the bound of a part that proves nothing about the ceilings."""

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (REFERENCE, TRANSFORMERS, TRANSFORMERS_STATIC, TRANSFORMERS_EAGER)
}
"""How a target executes its steps, by the name in a manifest."""


def backend_for(backend: Backend, shape: ModelShape) -> Backend:
    """The backend; for a mixture of experts without calls, because they have not been counted."""
    if not shape.is_mixture:
        return backend
    return replace(backend, name=f"{backend.name}, calls not counted", calls={}, calls_many_rows={})


def sweep_for(costs: Sequence[StepCost], *, library: str, threads: int) -> CeilingSweep:
    """The ceiling sweep for these steps: at their footprints and layers, and at every power of two below.

    Args:
        costs: of the steps, all of one shape and precision.
        library: `numpy` or `torch`.
        threads: number of threads of the library.
    """
    shape, dtype = costs[0].shape, costs[0].precision.activations
    decoding = [cost for cost in costs if cost.step.new == 1]
    footprints, layers = ([size(cost) for cost in costs] for size in (_footprint, _layer))
    octaves = {NEAREST_BYTES << n for n in range(64) if NEAREST_BYTES << n < max(footprints)}
    ends = {end(map(size, of)) for of in (costs, decoding) if of for size in (_footprint, _layer) for end in (min, max)}
    return CeilingSweep(
        sorted(octaves | ends), call_up_to=max(layers), library=library, dtype=dtype, row=shape.hidden, threads=threads
    )


def _footprint(cost: StepCost) -> int:
    return cost.resident_bytes


def _layer(cost: StepCost) -> int:
    return ceil(cost.layer_bytes)


def rates_between(ceilings: SweepCeilings, dtype: str) -> tuple[Rates, Rates]:
    """The rates of a machine at both ends of its ceilings' intervals: at their best, and at their medians.

    Calls have warm caches: how much of a library's code a step leaves in the caches is unknown, and a bound takes the
    least time.

    The peak of arithmetic is at least the rate that matrix-vector products reached: two operations per number. So a
    badly timed matrix product never makes a matrix-vector product compute-bound.
    """
    seen = 2e9 / bytes_each(dtype) * max(ceilings.best.read_gb_s.values())
    return _warm(rates_from(ceilings.best, dtype, seen)), _warm(rates_from(ceilings.typical, dtype, seen))


def _warm(rates: Rates) -> Rates:
    return replace(rates, levels=tuple(replace(level, call_ns=None) for level in rates.levels))


def rates_from(figures: SweepFigures, dtype: str, least_flops: float = 0.0) -> Rates:
    """The figures of a ceiling sweep as the rates of a machine.

    A set is read at the bandwidth of the size that is nearest by ratio, so the bandwidth changes at the geometric mean:
    the scores of 1,025 positions are 0.2 % larger than a power of two and much smaller than the next one. A call has
    the overhead measured after a set that is at least as large.

    Args:
        figures: medians, or best rounds.
        dtype: of the products.
        least_flops: FLOP/s that other operations reached.
    """
    sizes = list(figures.read_gb_s)
    levels: list[Level] = []
    for size, larger in pairwise(sizes):
        name, bytes_per_s = f"{short(size / 1e6, 3)} MB", figures.read_gb_s[size] * 1e9
        levels.append(Level(name, bytes_per_s, size, figures.call_ns.get(size)))
        levels.append(Level(name, bytes_per_s, isqrt(size * larger), figures.call_ns.get(larger)))
    last = sizes[-1]
    levels.append(Level(f"{short(last / 1e6, 3)} MB", figures.read_gb_s[last] * 1e9, None, figures.call_ns.get(last)))
    return Rates(
        tuple(levels),
        {dtype: max(figures.gemm_gflop_s * 1e9, least_flops)},
        call_overhead_ns=figures.call_ns[0],
        vector_flops=figures.vector_g_s * 1e9,
        special_functions=figures.special_g_s * 1e9,
    )
