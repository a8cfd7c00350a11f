"""The bounds beside device-busy time: theory's bytes and FLOPs over the device's ceilings, and a step's MBU and MFU.

A bound bounds (law "a bound bounds"): it is made of the best round of each ceiling, and of the launches that were seen.
A part that is faster anyway has none. Where one was faster than its bytes or products alone allow, or the whole
step was, the ceilings are wrong and judge nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from perstep.experiments.bounds import BACKENDS, BEATEN, EXCEEDED
from perstep.experiments.device.limits import DevicePartBound, rates_of
from perstep.experiments.ledger.bounds import FUSED, MOST_CONTEXTS
from perstep.experiments.ledger.device.findings import DeviceWork
from perstep.experiments.ledger.samples import Bounded, Workload
from perstep.machine.device_ceilings import KINDS, DeviceCeilings
from perstep.report.format import duration, percent, significant
from perstep.theory import TRANSFORMERS, Backend, Precision, StepCost, decode, prefill, shape_of, step_cost
from perstep.theory.device import DeviceBound, DeviceRates, Utilisation, device_bound, utilisation
from perstep.theory.kernels import KernelTimes, count_of, expected_ns, step_kernels

TERMS = ("compute_ns", "bandwidth_ns", "launches_ns")


EXPECTED_LAUNCHES = 0.05
"""A part is predicted only if its launches are as many as were counted, but for this share: else other kernels ran."""


class DeviceBounds(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one kind of step on a device.

    Attributes:
        parts: of every part that launches something.
        expected_ns: part -> what its kernels are expected to take, from medians: no bound. Parts whose kernels nobody
            has counted, or that launched others, are missing.
        step_ns: of all kernels of the step, without the parts whose bound is withdrawn; None where all are.
        mbu: model bandwidth utilisation of the plain step; None where theory has no formula for the model.
        mfu: model FLOPs utilisation.
        memory_gb_s: the bandwidth that they are shares of.
        peak_tflop_s: likewise.
        notes: sentences about them.
    """

    parts: dict[str, DevicePartBound]
    step_ns: float | None
    mbu: float | None
    mfu: float | None
    memory_gb_s: float
    peak_tflop_s: float
    notes: list[str] = []
    expected_ns: dict[str, float] = {}


@dataclass(frozen=True)
class Costs:
    """One step: as this library carries it out, and the least that must be done, weights and cache once."""

    done: StepCost
    least: StepCost


def device_bounds(
    of: Bounded, workload: Workload, ceilings: DeviceCeilings | None, works: Mapping[str, DeviceWork]
) -> dict[str, DeviceBounds]:
    """The bounds by kind of step; nothing without ceilings that bound.

    Args:
        of: the target.
        workload: of the run.
        ceilings: of the device that it ran on.
        works: by kind of step.
    """
    if ceilings is None or ceilings.why_no_bounds():
        return {}
    by_kind = {}
    for kind, work in works.items():
        steps = _costs(of, kind, work, prompt_tokens=workload.prompt_tokens, batch=workload.batch)
        bounds = _bounds(work, steps, rates_of(ceilings, steps[-1].least.resident_bytes if steps else None))
        fused = of.backend == TRANSFORMERS.name
        predicted = expected(work, [step.least for step in steps], times_of(ceilings)) if fused else {}
        said = [*bounds.notes, *_launch_note(work, ceilings)]
        by_kind[kind] = msgspec.structs.replace(bounds, expected_ns=predicted, notes=said)
    return by_kind


def _launch_note(work: DeviceWork, ceilings: DeviceCeilings) -> list[str]:
    """What the launches of a step would cost the host as bare launches."""
    bare = ceilings.figures.get("launch")
    if bare is None:
        return []
    said = f"A bare launch from Python costs the host {duration(bare.value)} here: the "
    return [f"{said}{significant(work.launches)} launches of a step would take {duration(work.launches * bare.value)}."]


def expected(work: DeviceWork, steps: Sequence[StepCost], times: KernelTimes) -> dict[str, float]:
    """What the kernels of parts are expected to take, where they are those that were counted.

    Args:
        work: what was measured, of which the launches alone are asked.
        steps: at the contexts that were measured.
        times: of kernels, on this device.
    """
    counted = [step_kernels(step.shape, step.step, step.precision) for step in steps]
    by_part = {}
    for name in counted[0] if counted else ():
        launches = work.parts[name].launches if name in work.parts else 0.0
        kernels = count_of(counted[0][name])
        each = [expected_ns(one[name], times) for one in counted]
        if abs(launches - kernels) <= EXPECTED_LAUNCHES * kernels and None not in each:
            by_part[name] = float(np.mean([ns for ns in each if ns is not None]))
    return by_part


def times_of(ceilings: DeviceCeilings) -> KernelTimes:
    """How long kernels take: the medians of what was timed."""
    smallest: dict[str, float] = {
        kind: ceilings.figures[f"kernel.{kind}"].value for kind in KINDS if f"kernel.{kind}" in ceilings.figures
    }
    products = [(figure.rows, figure.bytes_moved, figure.value) for figure in ceilings.of("product")]
    return KernelTimes(smallest, products, (ceilings.memory_gb_s or 1.0) * 1e9)


def _costs(of: Bounded, kind: str, work: DeviceWork, *, prompt_tokens: int, batch: int) -> list[Costs]:
    """The costs of the steps that were profiled, at up to 16 contexts; none where theory has no formula."""
    shape = shape_of(of.config)
    if shape is None:
        return []
    precision, backend = Precision.all(of.dtype), _on_a_device(BACKENDS[of.backend])
    if kind == "prefill":
        steps = [prefill(prompt_tokens, batch=batch)]
    else:
        contexts = np.unique(np.linspace(prompt_tokens, prompt_tokens + work.positions - 1, MOST_CONTEXTS).astype(int))
        steps = [decode(int(S), batch=batch) for S in contexts]
    return [Costs(step_cost(shape, step, precision, backend), step_cost(shape, step, precision)) for step in steps]


def _on_a_device(backend: Backend) -> Backend:
    """The backend without calls, which are counted as launches, and without the packing of a CPU's library."""
    return replace(backend, name=f"{backend.name}, on a device", calls={}, calls_many_rows={}, packing=None)


def _bounds(work: DeviceWork, steps: Sequence[Costs], rates: DeviceRates) -> DeviceBounds:
    done, least = ([getattr(step, side) for step in steps] for side in ("done", "least"))
    bounds = {name: _part_bound(name, part.launches, done, rates) for name, part in work.parts.items()}
    positive = {name: bound for name, bound in bounds.items() if bound.bound_ns > 0}
    roofs = {name: _part_bound(name, 0.0, least, rates).bound_ns for name in positive}
    took = {name: work.parts[name].busy_ns for name in positive}
    used = _utilisation(work, least, rates)
    memory_gb_s, peak_tflop_s = rates.bytes_per_s / 1e9, rates.peak_flops / 1e12
    faster = [
        f"{name} took {duration(took[name])}, less than the minimum of {duration(roofs[name])}"
        for name in positive
        if took[name] < roofs[name]
    ]
    if faster:
        gone = {name: DevicePartBound(None, "", EXCEEDED) for name in positive}
        said = [f"Bounds: {EXCEEDED}: {'; '.join(faster)}."]
        return DeviceBounds(
            parts=gone, step_ns=None, mbu=None, mfu=None, memory_gb_s=memory_gb_s, peak_tflop_s=peak_tflop_s, notes=said
        )
    beaten = [name for name, bound in positive.items() if took[name] < bound.bound_ns]
    parts = {
        name: DevicePartBound(None, "", BEATEN) if name in beaten else DevicePartBound(bound.bound_ns, bound.binds)
        for name, bound in positive.items()
    }
    return DeviceBounds(
        parts=parts,
        step_ns=sum(part.bound_ns or 0.0 for part in parts.values()),
        mbu=None if used is None else used.mbu,
        mfu=None if used is None else used.mfu,
        memory_gb_s=memory_gb_s,
        peak_tflop_s=peak_tflop_s,
        notes=_notes(beaten, used, rates),
    )


def _part_bound(name: str, launches: float, steps: Sequence[StepCost], rates: DeviceRates) -> DeviceBound:
    """The mean over the steps' contexts of the bound of what lies in this part.

    A part at one layer (`attn/3`), like a processor, has no formula of its own: its launches bound it.
    """
    inside = FUSED.get(name, (name,))
    bounds = [device_bound([s.parts[p] for p in inside if p in s.parts], rates, launches=launches) for s in steps]
    bounds = bounds or [device_bound([], rates, launches=launches)]
    means = (float(np.mean([getattr(bound, term) for bound in bounds])) for term in TERMS)
    return DeviceBound(*means)


def _utilisation(work: DeviceWork, steps: Sequence[StepCost], rates: DeviceRates) -> Utilisation | None:
    if not steps:
        return None
    used = [utilisation(list(step.parts.values()), rates, step_ns=work.step_ns) for step in steps]
    return Utilisation(float(np.mean([each.mbu for each in used])), float(np.mean([each.mfu for each in used])))


def _notes(beaten: Sequence[str], used: Utilisation | None, rates: DeviceRates) -> list[str]:
    what = (
        "Bounds are the largest of products at the peak, weights and cache once, and launches times the shortest "
        f"kernel ({duration(rates.shortest_kernel_ns)}), at the best round of each ceiling; nothing is fitted."
    )
    said = [what]
    if used is not None:
        said.append(
            f"MBU {percent(used.mbu)}, MFU {percent(used.mfu)}: weights and cache once, and products, over the step "
            f"without instruments, against {significant(rates.bytes_per_s / 1e9)} GB/s and "
            f"{significant(rates.peak_flops / 1e12)} TFLOP/s, the best that was measured here."
        )
    if beaten:
        said.append(
            f"Faster than the bound, because data were nearer or kernels shorter than assumed: {', '.join(beaten)}."
        )
    return said
