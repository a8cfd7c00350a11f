"""The least time of a part: max(FLOPs / peak, bytes / bandwidth) + BLAS packing + calls x overhead of a call.

The roofline of Williams et al. 2009, with the level of a byte given by its reuse distance (Mattson et al. 1970):
weights and cache are read once per step, so they come from the nearest level that holds the whole step's
footprint; activations come from the nearest that holds those of one call of the part. The code and data of a library
call are used once per layer, so a call has the overhead of the level that holds a layer. Rates are passed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from perstep.errors import InputError
from perstep.theory.cost import Cost, StepCost


@dataclass(frozen=True)
class Level:
    """One level of memory: its read bandwidth and its size (None: unlimited).

    `call_ns` is the overhead of a library call whose code and data have been evicted to this level since the last
    call: the time of a small call right after reading a set of this level's size. None: the overhead with warm caches.
    """

    name: str
    bytes_per_s: float
    size_bytes: int | None = None
    call_ns: float | None = None

    def __post_init__(self) -> None:
        if self.bytes_per_s <= 0 or (self.call_ns or 0) < 0 or (self.size_bytes is not None and self.size_bytes < 0):
            raise InputError(
                f"level {self.name} needs a bandwidth above 0, and a size and a call overhead of 0 or more, found "
                f"{self.bytes_per_s} B/s, {self.size_bytes} B and {self.call_ns} ns"
            )


@dataclass(frozen=True)
class Rates:
    """The best rates of a machine, measured or from a data sheet.

    Attributes:
        levels: from the nearest to the farthest, the last of unlimited size.
        peak_flops: of matrix products, FLOP/s, by the dtype they are computed in.
        call_overhead_ns: the time of one library call without its work, with warm caches.
        vector_flops: other operations, numbers a second; None omits them from the bound.
        special_functions: exponentials and similar functions, numbers a second; None omits them.
    """

    levels: tuple[Level, ...]
    peak_flops: Mapping[str, float]
    call_overhead_ns: float = 0.0
    vector_flops: float | None = None
    special_functions: float | None = None

    def __post_init__(self) -> None:
        sizes = [level.size_bytes for level in self.levels]
        limits = [size for size in sizes[:-1] if size is not None]
        if not sizes or sizes[-1] is not None or len(limits) < len(sizes) - 1 or limits != sorted(limits):
            raise InputError(f"levels go from small to large and the last has no size, found sizes {sizes}")
        rates = [*self.peak_flops.values(), self.vector_flops, self.special_functions]
        if any(rate is not None and rate <= 0 for rate in rates) or self.call_overhead_ns < 0:
            raise InputError("rates must be above 0, and the call overhead 0 or more")

    def level_for(self, num_bytes: float) -> Level:
        """The nearest level that holds this many bytes.

        A cyclic sweep over a set that is larger than a level has no hits there under least-recently-used eviction,
        so a set is never split between levels.
        """
        return next(level for level in self.levels if level.size_bytes is None or num_bytes <= level.size_bytes)


@dataclass(frozen=True)
class Bound:
    """The least time of a part, and its terms.

    `binds` names the largest term: `compute`, `bandwidth@LEVEL`, `BLAS packing` or `call overhead`. `bound_ns` is the
    larger of `compute_ns` and `bandwidth_ns`, plus `packing_ns` (packing ends before a product begins) and
    `call_overhead_ns` (of all calls). `level` is the one that most of the bytes come from.
    """

    bound_ns: float
    compute_ns: float
    bandwidth_ns: float
    packing_ns: float
    call_overhead_ns: float
    level: str

    @property
    def terms(self) -> dict[str, float]:
        """The terms by name, in nanoseconds."""
        return {
            f"bandwidth@{self.level}": self.bandwidth_ns,
            "compute": self.compute_ns,
            "BLAS packing": self.packing_ns,
            "call overhead": self.call_overhead_ns,
        }

    @property
    def binds(self) -> str:
        """The largest term."""
        return max(self.terms, key=self.terms.__getitem__)


@dataclass(frozen=True)
class StepBound:
    """The least time of a step: its parts run one after another, so their bounds add up."""

    parts: Mapping[str, Bound]
    bound_ns: float
    level: str


def step_bound(cost: StepCost, rates: Rates) -> StepBound:
    """The bound of every part of a step.

    Raises:
        InputError: no peak for the dtype that the step computes in.
    """
    dtype = cost.precision.activations
    if dtype not in rates.peak_flops:
        raise InputError(f"no peak FLOP/s for {dtype}, only for {', '.join(rates.peak_flops) or 'none'}")
    level = rates.level_for(cost.resident_bytes)
    called = rates.level_for(cost.layer_bytes)
    call_ns = rates.call_overhead_ns if called.call_ns is None else called.call_ns
    parts = {part: part_bound(each, rates, dtype, level, call_ns) for part, each in cost.parts.items()}
    return StepBound(parts, sum(bound.bound_ns for bound in parts.values()), level.name)


def part_bound(cost: Cost, rates: Rates, dtype: str, streamed_from: Level, call_ns: float | None = None) -> Bound:
    """The bound of one part whose weights and cache come from a given level, and whose calls cost `call_ns`.

    Kinds of arithmetic add up, because library calls run one after another. Without `call_ns` caches are warm.
    """
    near = rates.level_for(cost.working_set_bytes)
    compute_s = (
        cost.matmul_flops / rates.peak_flops[dtype]
        + (cost.vector_flops / rates.vector_flops if rates.vector_flops else 0)
        + (cost.special_functions / rates.special_functions if rates.special_functions else 0)
    )
    streamed_s, near_s = cost.streamed_bytes / streamed_from.bytes_per_s, cost.activation_bytes / near.bytes_per_s
    compute_ns, bandwidth_ns = compute_s * 1e9, (streamed_s + near_s) * 1e9
    packing_ns = cost.packed_bytes / streamed_from.bytes_per_s * 1e9
    call_overhead_ns = cost.calls * (rates.call_overhead_ns if call_ns is None else call_ns)
    level = (streamed_from if streamed_s >= near_s else near).name
    bound_ns = max(compute_ns, bandwidth_ns) + packing_ns + call_overhead_ns
    return Bound(bound_ns, compute_ns, bandwidth_ns, packing_ns, call_overhead_ns, level)


def roofline_ns(cost: Cost, rates: Rates, dtype: str) -> float:
    """The larger of two times: products at peak, and one read of weights and cache; less than this is impossible.

    Weights and cache come from the nearest level that holds those of this part, as if nothing else had been read.
    Calls, packing, activations and other arithmetic are omitted: they may be fewer, nearer or fused. A part that is
    faster than this shows that the ceilings are wrong.
    """
    streamed_from = rates.level_for(cost.streamed_bytes)
    return max(cost.matmul_flops / rates.peak_flops[dtype], cost.streamed_bytes / streamed_from.bytes_per_s) * 1e9


def binding_terms(least: Bound, typical: Bound) -> tuple[str, ...]:
    """The terms that may bind where ceilings have an interval: each is the largest for some rates within it.

    So one badly measured ceiling cannot replace one term by another; it can only add a second term.

    Args:
        least: the bound at the fast ends.
        typical: the same cost at the slow ends.
    """
    largest_ns = max(least.terms.values())
    may = [name for name, slow_ns in zip(least.terms, typical.terms.values(), strict=True) if slow_ns >= largest_ns]
    return tuple(sorted(may, key=lambda name: -least.terms[name]))
