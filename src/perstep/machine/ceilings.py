"""Measured ceilings: how fast this machine reads, copies, multiplies and dispatches at best.

A roofline drawn from a data sheet judges a machine nobody has; these are
measured here, in rounds over all of them. Each is the best of several methods
by its median, and a lower bound on what the hardware could do. `value` is the
median over rounds, `low` and `high` are its extremes.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import msgspec

from perstep._json import Json
from perstep._version import __version__
from perstep._words import plural, short
from perstep.errors import InputError
from perstep.machine._arms import (
    LINE_BYTES,
    CeilingArm,
    Unit,
    bandwidth_arms,
    call_overhead_arms,
    filled_buffer,
    gemm_arms,
    gemv_arms,
    imported_torch,
)
from perstep.machine._rounds import Samples, ThreadSetter, Timed, calibrate, fit_into, run_rounds, without_slow_rivals
from perstep.machine._sources import NONE, UNKNOWN, FloatOrNone, MaybeInt
from perstep.machine.describe import Machine, describe, identity
from perstep.machine.noise import CEILING_LIMITS, TAKEN, NoiseProbe, NoiseSummary, summarise_noise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import ThreadPoolExecutor

SCHEMA_VERSION = 1
BUDGET_S, QUICK_BUDGET_S = 15.0, 3.0
LEAST_NS, QUICK_LEAST_NS = 1_000_000, 200_000
FILL_SHARE = 0.4  # of the budget may go into touching the memory set for the first time
TRY_SHARE = 0.6  # of the budget may be over before arms are no longer tried
MEMORY_SHARE = 0.25  # of the memory that is free may be taken
MEMORY_SET_BYTES, QUICK_MEMORY_SET_BYTES = 1 << 30, 256 << 20
LEAST_L3_SET_BYTES = 8 << 20
MOST_SPREAD = 2.0  # of the best round over the median; drift was 1.7 at most


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """One measured ceiling.

    Attributes:
        figure: what it is, such as `read.memory`.
        value: the median over rounds, in `unit`.
        low: the smallest of them.
        high: the largest of them.
        unit: `GB/s` (10^9 bytes), `GFLOP/s` (10^9 operations) or `ns` per call.
        repeats: how many rounds.
        method: the method with the best median, whose figures these are.
        methods: the median of every method that was timed.
        threads: the thread count in force; None where it does not matter.
    """

    figure: str
    value: float
    low: float
    high: float
    unit: Unit
    repeats: int
    method: str
    methods: dict[str, float]
    threads: int | None = None
    level: str | None = None
    dtype: str | None = None
    working_set_bytes: int | None = None


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """All ceilings of one machine; `omitted` says of each that is missing why.

    `figures` has keys such as `read.memory@2` (two threads) and `clock.read`.
    The ceilings hold for this hardware (`identity`), these `versions`, and the
    CPUs and CPU quota that the process was allowed. `noise` says whether
    the rounds were disturbed.
    """

    schema_version: int = SCHEMA_VERSION
    identity: str
    versions: dict[str, str]
    allowed_cpus: MaybeInt
    cpu_quota_cores: FloatOrNone
    threads: tuple[int, ...]
    quick: bool
    noise: NoiseSummary
    elapsed_ns: int
    measured_at_unix_s: int
    figures: dict[str, Ceiling]
    omitted: dict[str, str]

    def get(self, figure: str, threads: int = 1) -> Ceiling | None:
        """The ceiling of a figure at a thread count; None if it was not measured."""
        return self.figures.get(f"{figure}@{threads}", self.figures.get(figure))

    def disturbed(self) -> str:
        """Why these are ceilings of a busy machine; empty if they are not.

        Half of the rounds or more had the processor taken away, or a figure's median is far from its best round.
        Kinds of disturbance may meet in a round; each is then counted, which errs on the side of measuring again.
        """
        rounds, taken = self.noise.rounds, sum(self.noise.by_kind.get(kind, 0) for kind in TAKEN)
        if 2 * taken >= rounds:
            return f"the processor was taken away in {min(taken, rounds)} of {plural(rounds, 'round')}"
        for name, figure in self.figures.items():
            spread = figure.value / figure.low if figure.unit == "ns" else figure.high / figure.value
            if spread > MOST_SPREAD and not name.startswith("clock."):
                return f"{name} was {spread:.1f} times as fast in its best round as in the median"
        return ""


def ceiling_versions(machine: Machine) -> dict[str, str]:
    """The versions that a ceiling depends on; torch counts only if it is imported."""
    software = machine.software
    names = ("numpy", "torch") if imported_torch() is not None else ("numpy",)
    packages = {name: software.packages.get(name, UNKNOWN) for name in names}
    return {"perstep": __version__, "python": software.python, "kernel": software.kernel, **packages}


def allowed_cpu_count(machine: Machine) -> MaybeInt:
    """How many CPUs the process may run on."""
    allowed = machine.cpu.allowed_cpus
    return len(allowed) if isinstance(allowed, tuple) else UNKNOWN


def working_sets(machine: Machine, *, quick: bool) -> tuple[dict[str, int], dict[str, str]]:
    """The bytes to go over for each level, and for each level left out why.

    `l2`: half of one L2. `l3`: four times L2, at least 8 MiB and at most half
    of one L3. `memory`: 1 GiB (256 MiB if quick), at least twice what all L3
    caches (L2 where there is no L3) hold together, at most a quarter of the
    free memory. A level whose cache is unknown is left out.
    """
    cpu = machine.cpu
    sets, omitted = {}, {}
    if isinstance(cpu.l2_bytes, int):
        sets["l2"] = cpu.l2_bytes // 2
    else:
        omitted["l2"] = f"the size of the L2 cache is {cpu.l2_bytes}"
    if isinstance(cpu.l3_bytes, int):
        l2 = cpu.l2_bytes if isinstance(cpu.l2_bytes, int) else 0
        sets["l3"] = min(cpu.l3_bytes // 2, max(4 * l2, LEAST_L3_SET_BYTES))
    else:
        omitted["l3"] = f"the size of the L3 cache is {cpu.l3_bytes}"
    cached, free = _last_level_bytes(machine), _free_bytes(machine)
    if cached is None:
        omitted["memory"] = "the cache sizes are unknown, so no size is known to exceed them"
    else:
        wanted = max(2 * cached, QUICK_MEMORY_SET_BYTES if quick else MEMORY_SET_BYTES)
        if free is not None and wanted > MEMORY_SHARE * free:
            omitted["memory"] = f"{wanted / 2**20:.0f} MiB are over a quarter of {free / 2**20:.0f} MiB free"
        else:
            sets["memory"] = wanted
    return {level: size // LINE_BYTES * LINE_BYTES for level, size in sets.items()}, omitted


def _last_level_bytes(machine: Machine) -> int | None:
    """All last-level caches together: some processors have one L3 for every few cores."""
    cpu = machine.cpu
    logical = cpu.cores_logical if isinstance(cpu.cores_logical, int) else 1
    if isinstance(cpu.l3_bytes, int):
        shared_by = cpu.l3_shared_by if isinstance(cpu.l3_shared_by, int) else logical
        return cpu.l3_bytes * max(1, -(-logical // shared_by))
    if cpu.l3_bytes == NONE and isinstance(cpu.l2_bytes, int):
        return cpu.l2_bytes * logical
    return None


def _free_bytes(machine: Machine) -> int | None:
    limits = [machine.memory.available_bytes, machine.cgroup.memory_limit_bytes]
    return min((size for size in limits if isinstance(size, int)), default=None)


def ceiling_arms(
    machine: Machine,
    *,
    threads: Sequence[int] = (1,),
    quick: bool = False,
    levels: Iterable[str] = ("l2", "l3", "memory"),
    pool: ThreadPoolExecutor | None = None,
    now: Callable[[], int] = time.perf_counter_ns,
    deadline_ns: int | None = None,
) -> tuple[list[CeilingArm], dict[str, str]]:
    """The callables behind the ceilings, to be run beside what they judge.

    Whoever runs an arm puts `arm.threads` in force, calls `arm.call` once
    untimed if `arm.level` is a cache, and turns the time of further calls into
    a figure with `arm.value(calls, elapsed_ns)`. The arms hold their buffers
    (1 GiB for memory) as long as they live.

    Args:
        machine: whose cache sizes decide the working sets.
        threads: the thread counts; one set of arms for each.
        quick: take smaller sets.
        levels: which levels to prepare.
        pool: a pool of Python threads for NumPy's reads and copies with more than one thread;
            without one those are done by one thread only.
        now: the clock of the deadline.
        deadline_ns: when to give up filling buffers.

    Returns:
        The arms, and for each level or figure left out why.

    Raises:
        InputError: a thread count is not positive.
    """
    if not threads or min(threads) < 1:
        raise InputError(f"threads are {list(threads)}; give one or more whole numbers from 1 on")
    sizes, omitted = working_sets(machine, quick=quick)
    arms = [*call_overhead_arms()]
    for count in threads:
        arms.extend(gemm_arms(count))
    for level in levels:
        if level not in sizes:
            continue
        buffer = filled_buffer(sizes[level], now, deadline_ns)
        if buffer is None:
            omitted[level] = f"no time: {sizes[level] / 2**20:.0f} MiB could not be written in time"
            continue
        for count in threads:
            arms.extend(gemv_arms(buffer, level, count))
            if level != "l2" or count == 1:  # an L2 belongs to one core
                arms.extend(bandwidth_arms(buffer, level, count, pool))
    if imported_torch() is None:
        omitted["torch"] = "it is not imported: no bfloat16 or float16 figures, no call overhead of torch"
    return arms, omitted


def measure_ceilings(
    machine: Machine | None = None,
    *,
    quick: bool = False,
    budget_s: float | None = None,
    threads: Sequence[int] | None = None,
    now: Callable[[], int] = time.perf_counter_ns,
    unix_s: Callable[[], float] = time.time,
    progress: Callable[[int, int], None] | None = None,
) -> Ceilings:
    """Measure all ceilings, interleaved in rounds.

    Args:
        machine: the manifest; described anew by default.
        quick: at most 3 s instead of 15, with smaller sets.
        budget_s: another time limit, in seconds. Three rounds are run in any
            case; what they have no time for is left out and named in `omitted`.
        threads: thread counts; by default 1 and what the BLAS would use.
        now: the clock, in nanoseconds.
        unix_s: the time of day, in seconds since 1970.
        progress: called with timings done and planned.

    Returns:
        The ceilings. Those with torch are there only if torch was imported before.

    Raises:
        InputError: the budget or a thread count is not positive.
    """
    from concurrent.futures import ThreadPoolExecutor

    begin_ns = now()
    budget_s = _positive(budget_s if budget_s is not None else QUICK_BUDGET_S if quick else BUDGET_S)
    machine = machine or describe()
    setter, least_ns = ThreadSetter(), QUICK_LEAST_NS if quick else LEAST_NS
    counts = tuple(sorted(set(threads or (1, setter.blas_threads()))))
    deadline_ns = begin_ns + round(budget_s * 1e9)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(max(counts))) if max(counts) > 1 else None
        until_ns = begin_ns + round(FILL_SHARE * budget_s * 1e9)
        arms, omitted = ceiling_arms(machine, threads=counts, quick=quick, pool=pool, now=now, deadline_ns=until_ns)
        arms.append(CeilingArm("clock.read", getattr(now, "__qualname__", "clock"), now, 1, "ns"))
        tried, not_tried = try_arms(arms, least_ns, setter, now, until_ns=begin_ns + round(TRY_SHARE * budget_s * 1e9))
        timed, slow = without_slow_rivals(tried)
        timed, rounds, costly = fit_into(timed, deadline_ns - now())
        probe = stack.enter_context(NoiseProbe(now=now))
        samples = run_rounds(
            timed, rounds, now=now, setting=setter, deadline_ns=deadline_ns, probe=probe, progress=progress
        )
    return Ceilings(
        **_processor_of(machine),
        threads=counts,
        quick=quick,
        noise=summarise_noise(samples.noises, CEILING_LIMITS),
        elapsed_ns=now() - begin_ns,
        measured_at_unix_s=int(unix_s()),
        figures=figures_of([one.arm for one in timed], samples),
        omitted={**omitted, **not_tried, **slow, **costly},
    )


def _positive(budget_s: float) -> float:
    if budget_s <= 0:
        raise InputError(f"budget_s is {short(budget_s)}; it must be more than 0 seconds")
    return budget_s


def _processor_of(machine: Machine) -> dict[str, Json]:
    """What ceilings say of the machine that they are of."""
    return {
        "identity": identity(machine),
        "versions": ceiling_versions(machine),
        "allowed_cpus": allowed_cpu_count(machine),
        "cpu_quota_cores": machine.cgroup.cpu_quota_cores,
    }


def try_arms(
    arms: Sequence[CeilingArm], least_ns: int, setter: ThreadSetter, now: Callable[[], int], *, until_ns: int
) -> tuple[list[Timed], dict[str, str]]:
    """The arms with as many calls as a timing needs, and by name why others are left out.

    Args:
        arms: to try.
        least_ns: that a timing lasts.
        setter: of threads.
        now: the clock, in nanoseconds.
        until_ns: when the last one may begin.
    """
    tried: list[Timed] = []
    omitted: dict[str, str] = {}
    for arm in arms:
        if now() > until_ns:
            omitted[arm.name] = "no time to try it"
            continue
        with setter(arm.threads):
            one = calibrate(arm, least_ns, now)
        if one is None:
            omitted[arm.name] = "the clock did not move"
        else:
            tried.append(one)
    return tried, omitted


def figures_of(arms: Sequence[CeilingArm], samples: Samples) -> dict[str, Ceiling]:
    """The best rounds of each figure, and the clock's resolution if it was seen."""
    figures = best_figures(arms, samples.values)
    if any(samples.resolutions_ns):
        figures["clock.resolution"] = _resolution([step for step in samples.resolutions_ns if step])
    return figures


def best_figures(arms: Sequence[CeilingArm], values: dict[str, list[float]]) -> dict[str, Ceiling]:
    """For each figure and thread count the method with the best median.

    A matrix-vector product goes over its whole matrix once, so it also stands
    for a way of reading that level.

    Args:
        arms: what was timed.
        values: for each arm's name its figures, one a round.
    """
    from statistics import median

    candidates: dict[str, list[tuple[CeilingArm, str, Unit, list[float]]]] = {}
    for arm in arms:
        seen = values[arm.name]
        if not seen:
            continue
        candidates.setdefault(arm.key, []).append((arm, arm.figure, arm.unit, seen))
        if arm.bytes_read is not None:
            bandwidths = [value * arm.bytes_read / arm.work for value in seen]
            figure = f"read.{arm.level}"
            candidates.setdefault(f"{figure}@{arm.threads}", []).append((arm, figure, "GB/s", bandwidths))
    figures = {}
    for key, methods in candidates.items():
        best = max if methods[0][2] != "ns" else min
        arm, figure, unit, seen = best(methods, key=lambda method: median(method[3]))
        names = {_method_name(one, name): median(its) for one, name, _, its in methods}
        figures[key] = Ceiling(
            figure=figure,
            value=median(seen),
            low=min(seen),
            high=max(seen),
            unit=unit,
            repeats=len(seen),
            method=_method_name(arm, figure),
            methods=names,
            threads=arm.threads,
            level=arm.level,
            dtype=arm.dtype if figure == arm.figure else None,
            working_set_bytes=arm.working_set_bytes,
        )
    return figures


def _method_name(arm: CeilingArm, figure: str) -> str:
    return arm.method if figure == arm.figure else f"{arm.method} {arm.dtype}"


def _resolution(steps: Sequence[int]) -> Ceiling:
    from statistics import median

    return Ceiling(
        figure="clock.resolution",
        value=float(median(steps)),
        low=float(min(steps)),
        high=float(max(steps)),
        unit="ns",
        repeats=len(steps),
        method="smallest step of 1000 readings",
        methods={},
    )
