"""What `ledger` finds: a ledger for decode steps and one for the prefill, from the samples alone."""

from collections.abc import Sequence
from math import inf

import msgspec

from perstep._words import plural
from perstep.experiments.columns import too_few, why_unresolved
from perstep.experiments.conditions import typed
from perstep.experiments.device.stream import DeviceLedger
from perstep.experiments.ledger.bounds import LedgerBounds, bounds_of
from perstep.experiments.ledger.device.bounds import DeviceBounds, device_bounds
from perstep.experiments.ledger.device.findings import DeviceWork, device_work
from perstep.experiments.ledger.samples import Conditions, Sample, Workload, idle_ns, ledger_samples
from perstep.experiments.sync_counts import with_syncs
from perstep.machine import NoiseSummary, SweepCeilings, summarise_noise, sweep_ceilings
from perstep.machine.device_ceilings import DeviceCeilings
from perstep.measure import Ledger, build_ledger
from perstep.runs import Manifest


class LedgerFindings(msgspec.Struct):
    """`results.json`. `device` (time on the stream) and `device_work` are by kind of step; empty without a device.

    `bounds_withdrawn` is why there are no bounds although theory has a formula for the architecture, or empty.
    """

    decode: Ledger | None
    prefill: Ledger
    tokens_per_s: float | None
    noise: NoiseSummary
    differing_choices: int
    unresolved: str
    invalid: str
    device: dict[str, DeviceLedger] = {}
    bounds: dict[str, LedgerBounds] = {}
    ceilings: SweepCeilings | None = None
    bounds_withdrawn: str = ""
    device_work: dict[str, DeviceWork] = {}
    device_bounds: dict[str, DeviceBounds] = {}
    device_ceilings: DeviceCeilings | None = None

    @property
    def ledgers(self) -> list[Ledger]:
        """Those of the host's time, decode first."""
        return [ledger for ledger in (self.decode, self.prefill) if ledger is not None]


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> LedgerFindings:
    """The two ledgers: a pure function of manifest and samples.

    Raises:
        InputError: there are no samples, or rounds that do not hold the same steps and parts.
        InvalidMeasurement: a step's parts do not add up to it.
    """
    conditions, workload = typed(manifest, Conditions), typed(manifest, Workload)
    ledgers = _host_ledgers(conditions, samples, workload.device)
    decode, prefill = ledgers.get("decode"), ledgers["prefill"]
    differing = sum(p.differing_choices for s in samples for p in s.passes)
    differing += sum(s.profiled.differing_choices for s in samples if s.profiled is not None)
    reasons = [f"{ledger.kind}: {ledger.invalid}" for ledger in ledgers.values() if ledger.invalid]
    if differing:
        reasons.insert(
            0,
            f"{plural(differing, 'choice differs', 'choices differ')} from the replayed trace, so the arms did not do "
            "the same work",
        )
    taken = [sample for sample in samples if sample.ceilings]
    sweeps = [(one, sample.noise) for sample in taken for one in (sample.ceilings, *sample.ceilings_again)]
    ceilings = sweep_ceilings([figures for figures, _ in sweeps], [noise for _, noise in sweeps])
    works, on_device = device_work(samples), conditions.device_ceilings
    return LedgerFindings(
        decode=decode,
        prefill=prefill,
        tokens_per_s=workload.batch * 1e9 / headline_ns(decode) if decode else None,
        noise=summarise_noise(s.noise for s in samples),
        differing_choices=differing,
        unresolved=_unresolved(decode or prefill, conditions.precision),
        invalid="; ".join(reasons),
        device=_device_ledgers(samples),
        bounds=bounds_of(conditions.bounds, workload, ceilings, ledgers),
        ceilings=ceilings,
        bounds_withdrawn=_why_no_bounds(conditions, ceilings),
        device_work=works,
        device_bounds=device_bounds(conditions.device_bounds, workload, on_device, works),
        device_ceilings=on_device,
    )


def _why_no_bounds(conditions: Conditions, ceilings: SweepCeilings | None) -> str:
    unknown = conditions.bounds.unknown or conditions.device_bounds.unknown
    return unknown or ("" if ceilings is None else ceilings.why_no_bounds())


def _host_ledgers(conditions: Conditions, samples: Sequence[Sample], device: str) -> dict[str, Ledger]:
    ledgers = {}
    for kind, arrays in ledger_samples(samples).items():
        ledger = build_ledger(kind, arrays, mark_ns=conditions.mark_ns)
        ledgers[kind] = with_syncs(ledger, conditions.syncs.get(kind), device=device)
    return ledgers


def _device_ledgers(samples: Sequence[Sample]) -> dict[str, DeviceLedger]:
    ledgers = {}
    for kind, arrays in ledger_samples(samples, "device").items():
        idle = idle_ns(samples, kind)
        ledger = build_ledger(kind, arrays, mark_ns=0.0)  # what a mark costs the device is not known, only the host's
        ledgers[kind] = DeviceLedger(ledger=ledger, idle_ns_per_step=sum(idle.values()), idle_parts_ns=idle)
    return ledgers


def headline_ns(ledger: Ledger) -> float:
    """The step without instruments, which every round of this experiment holds."""
    assert ledger.plain_step_ns is not None  # noqa: S101
    return ledger.plain_step_ns


def _unresolved(ledger: Ledger, precision: float | None) -> str:
    now, missing = ledger.resolved(), ""
    if now.half_width == inf:
        without = (
            ", ".join(name for name, part in ledger.parts.items() if part.ci_low is None)
            or "the instrumentation overhead"
        )
        left = f"({plural(now.merged_rounds, 'is', 'are')} left when those are merged)"
        missing = f"no interval for {without}: {too_few(ledger.rounds)} {left}"
    return why_unresolved(missing, now.half_width, precision)
