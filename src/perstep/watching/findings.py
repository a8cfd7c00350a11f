"""What watched calls say: a ledger for each line that called generate, or a model in a loop written by hand.

Calls from one line of the source have one ledger for decode steps and one for prefills
(`measure.build_watched_ledger`); first calls are separate (`first_calls.py`). Nothing is replayed, warmed up or
repeated, so there are no verdicts here and no rounds to be added; what is said in words is resolved by the
intervals, or a fact of the recorded steps.
"""

from collections.abc import Callable, Iterator, Sequence
from math import inf

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.call_recorder import CallSteps
from perstep.experiments.conditions import typed
from perstep.experiments.device.stream import DeviceLedger
from perstep.experiments.sync_counts import merge_counts, with_syncs
from perstep.machine import NoiseSummary, summarise_noise
from perstep.measure import Ledger, LedgerSamples, WatchedSteps, belongs, build_watched_ledger
from perstep.report.format import plural
from perstep.runs import Manifest
from perstep.targets.transformers import Schedule
from perstep.targets.transformers.words import DECODE, ENCODER, PREFILL, SETUP, VISION
from perstep.watching.assisted import Assisted, find_assisted
from perstep.watching.batching import Batching, find_batching
from perstep.watching.compiled import Break, Compiled, find_breaks, find_compiled
from perstep.watching.first_calls import Chosen, FirstCall, choose, find_first_calls
from perstep.watching.growth import Growth, find_growth
from perstep.watching.samples import KINDS, NOT_COUNTED, Conditions, Inside, MadeBy, Sample, by_site


class SiteFindings(msgspec.Struct, kw_only=True):
    """What the calls from one line of the source cost.

    Attributes:
        site: the line, as `folder/file.py:12`.
        model: its class; two models on one line are two sites.
        calls: watched, those that broke off included.
        broken_off: ended by an exception; their finished steps count.
        rows: of the batches, each number once; likewise `prompt_tokens` and `new_tokens`.
        device_ledgers: the device's own, by kind of step; empty where the host does all the work.
        costliest: the part outside the forward that takes most of a decode step (of the prefill where there is none);
            empty where that is not resolved.
        first_calls: the times of first calls, which are shown separately.
        prefill_is_first: the ledger of the prefill is of first calls alone.
        made_by: what the calls are: `generate`, runs of a `loop` written by hand, `steps` that a program names, or runs
            of a manager of continuous `batching`.
        whole: no cache was used: the decode steps took in the whole text again.
        growth: of each part over the decode steps.
        setup: of what comes before the first token of a generate call, with the prefill as one part.
        compiled: what `torch.compile` compiled in these calls, by function.
        breaks: where it fell back to Python, by line.
        assisted: what the drafts of assisted decoding brought.
        batching: how full the batches of continuous batching were, and what a token cost then.
    """

    site: str
    model: str
    device: str
    dtype: str
    calls: int
    broken_off: int
    rows: list[int]
    prompt_tokens: list[int]
    new_tokens: list[int]
    decode: Ledger | None
    prefill: Ledger | None
    costliest: str
    notes: list[str]
    device_ledgers: dict[str, DeviceLedger] = {}
    first_calls: list[FirstCall] = []
    prefill_is_first: bool = False
    made_by: MadeBy = "generate"
    whole: bool = False
    growth: list[Growth] = []
    setup: Ledger | None = None
    compiled: list[Compiled] = []
    breaks: dict[str, Break] = {}
    assisted: Assisted | None = None
    batching: Batching | msgspec.UnsetType = msgspec.UNSET

    @property
    def main(self) -> Ledger | None:
        """The ledger of decode steps, or where there are none that of the prefill."""
        return self.decode or self.prefill


class WatchFindings(msgspec.Struct, kw_only=True):
    """`results.json`; `inside` is one part by its own source lines, where that was asked for."""

    sites: list[SiteFindings]
    noise: NoiseSummary
    unresolved: str
    invalid: str
    inside: Inside | msgspec.UnsetType = msgspec.UNSET


def call_ledger(kind: str, samples: Sequence[Sample], mark_ns: float) -> Ledger | None:
    """The ledger of the host's time in calls, or None where no step of the kind was marked."""
    chosen = choose(kind, samples)
    ledger = _build(kind, samples, _taken(chosen, kind), mark_ns)
    if ledger is None:
        return None
    recorded = sum(len(s.kinds[kind].step_ns) for s in samples if kind in s.kinds)
    apart = sum(call.skip for call in chosen)
    if any(not call.is_first for call in chosen):  # then those that are left out whole are first ones
        apart = recorded - sum(len(call.sample.kinds[kind].step_ns) - call.skip for call in chosen)
    if apart:
        note = f"First calls are shown separately: the rows exclude {apart:,} of {plural(recorded, f'{kind} step')}."
        ledger = msgspec.structs.replace(ledger, notes=[*ledger.notes, note])
    other = next((s.other_way for s in samples if s.other_way), "")
    if other:
        why = f"unobserved, fast.decode does this call in another way ({other}), so these are not its parts"
        ledger = msgspec.structs.replace(ledger, invalid=why)
    counted = merge_counts([s.syncs[kind] for s in samples if kind in s.syncs])
    return with_syncs(ledger, counted, device=samples[0].device)


def setup_ledger(samples: Sequence[Sample], mark_ns: float) -> Ledger | None:
    """What comes before the first token of a generate call, the prefill as one part; None where no call was marked."""
    chosen = choose(PREFILL, samples)
    taken = [(sample, _before_first_token(steps)) for sample, steps in _taken(chosen, PREFILL)]
    ledger = _build(PREFILL, samples, taken, mark_ns)
    return None if ledger is None else msgspec.structs.replace(ledger, kind=SETUP)


def _before_first_token(steps: CallSteps) -> CallSteps:
    """The steps of prefills with what is no set-up in one part."""
    once = [name for name in steps.parts if belongs(name, (SETUP, ENCODER, VISION))]
    rest = [name for name in steps.parts if name not in once]
    total = sum((steps.parts[name] for name in rest), np.zeros(len(steps.residual_ns), np.int64))
    return CallSteps(
        steps.step_ns,
        {**{name: steps.parts[name] for name in once}, PREFILL: total},
        steps.residual_ns,
        {**{name: steps.marks.get(name, 0) for name in once}, PREFILL: sum(steps.marks.get(name, 0) for name in rest)},
        marked=steps.marked,
    )


def marked_steps(kind: str, samples: Sequence[Sample]) -> LedgerSamples:
    """The marked steps behind a ledger one after another, each as a round; the plain ones likewise."""
    taken = [steps for _, steps in _taken(choose(kind, samples), kind)]
    names = dict.fromkeys(name for steps in taken for name in steps.parts)

    def column(of: Callable[[CallSteps], NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.concatenate([of(steps) for steps in taken]).reshape(-1, 1, 1)

    def part(name: str) -> NDArray[np.int64]:
        return column(lambda steps: steps.parts.get(name, np.zeros(len(steps.residual_ns), np.int64)))

    return LedgerSamples(
        plain_ns=column(lambda steps: steps.step_ns[~steps.marked.astype(bool)]),
        step_ns=column(lambda steps: steps.step_ns[steps.marked.astype(bool)]),
        parts={name: part(name) for name in names},
        residual_ns=column(lambda steps: steps.residual_ns),
        marks_per_step={},
    )


def device_ledger(kind: str, samples: Sequence[Sample]) -> DeviceLedger | None:
    """The ledger of the device's time in calls, or None where there is none."""
    # What a mark costs the device is not known, only what it costs the host.
    chosen = choose(kind, samples)
    ledger = _build(kind, samples, _taken(chosen, kind, "device_kinds"), 0.0)
    if ledger is None:
        return None
    idle = [steps for _, steps in _taken(chosen, kind, "idle_kinds")]
    parts = {
        name: sum(int(c.parts[name].sum()) for c in idle if name in c.parts) / ledger.steps for name in ledger.parts
    }
    parts["residual"] = sum(int(c.residual_ns.sum()) for c in idle) / ledger.steps
    return DeviceLedger(ledger=ledger, idle_ns_per_step=sum(parts.values()), idle_parts_ns=parts)


def _taken(chosen: Sequence[Chosen], kind: str, side: str = "kinds") -> list[tuple[Sample, CallSteps]]:
    """The calls of a ledger with their columns on one side: host time, device time, or what the device waited."""
    return [(c.sample, c.taken(columns[kind])) for c in chosen if kind in (columns := getattr(c.sample, side))]


def _build(
    kind: str, samples: Sequence[Sample], taken: Sequence[tuple[Sample, CallSteps]], mark_ns: float
) -> Ledger | None:
    steps = [each for _, each in taken]
    if not any(len(s.residual_ns) for s in steps):
        return None
    names = dict.fromkeys(name for s in steps for name in s.parts)
    absent = [np.zeros(len(s.residual_ns), np.int64) for s in steps]
    watched = WatchedSteps(
        step_ns=np.concatenate([s.step_ns for s in steps]),
        marked=np.concatenate([s.marked for s in steps]).astype(bool),
        parts={
            name: np.concatenate([s.parts.get(name, zero) for s, zero in zip(steps, absent, strict=True)])
            for name in names
        },
        residual_ns=np.concatenate([s.residual_ns for s in steps]),
        marks={name: sum(s.marks.get(name, 0) for s in steps) for name in names},
        calls=[len(s.step_ns) for s in steps],
        alike=_alike(taken),
        forwards=sum(_forwards(sample, kind) for sample in samples),
    )
    return build_watched_ledger(kind, watched, mark_ns=mark_ns)


def _alike(taken: Sequence[tuple[Sample, CallSteps]]) -> bool:
    """Whether the calls repeat each other: one shape, and the same parts; a median would lose a part of a few calls."""
    shapes = {(sample.finished, sample.rows, sample.prompt_tokens, sample.steps) for sample, _ in taken}
    parts = {frozenset(steps.parts) for _, steps in taken if len(steps.residual_ns)}
    # What is in a batch goes by when the requests came, so runs of a manager do not repeat each other.
    return len(shapes) == len(parts) == 1 and not any(sample.batches for sample, _ in taken)


def _forwards(sample: Sample, kind: str) -> int:
    """Forwards of this kind: a decode step makes one; the first step, the prefill, made the others."""
    decode = max(0, sample.steps - sample.prefills)
    return decode if kind == DECODE else sample.forwards - decode


def find_sites(samples: Sequence[Sample], mark_ns: float, schedule: Schedule) -> list[SiteFindings]:
    """What the calls of each line cost: a pure function."""
    return [_site(name, calls, mark_ns, schedule) for name, calls in by_site(samples).items()]


def _site(name: str, samples: list[Sample], mark_ns: float, schedule: Schedule) -> SiteFindings:
    decode, prefill = (call_ledger(kind, samples, mark_ns) for kind in KINDS)
    main = decode or prefill
    batching = find_batching(samples)
    broken_off = sum(not sample.finished for sample in samples)
    notes = list(dict.fromkeys(note for sample in samples for note in sample.notes))
    if broken_off:
        notes.append(f"{plural(broken_off, 'call')} broke off with an exception; the steps finished before it count.")
    beside = {kind: ledger for kind in KINDS if (ledger := device_ledger(kind, samples)) is not None}
    if beside:
        notes.append(
            f"The model is on {samples[0].device}. In the ledger of host time, where the host waits for the device it"
            " waits for work that earlier parts queued."
        )
    return SiteFindings(
        site=name,
        model=samples[0].model,
        device=samples[0].device,
        dtype=samples[0].dtype,
        calls=len(samples),
        broken_off=broken_off,
        rows=_distinct(sample.rows for sample in samples),
        prompt_tokens=_distinct(sample.prompt_tokens for sample in samples),
        new_tokens=_distinct(sample.new_tokens for sample in samples),
        decode=decode,
        prefill=prefill,
        costliest=main.largest_outside[0] if main is not None and len(main.largest_outside) == 1 else "",
        notes=notes,
        device_ledgers=beside,
        first_calls=find_first_calls(samples),
        prefill_is_first=all(call.is_first for call in choose(PREFILL, samples)),
        made_by=samples[0].made_by,
        whole=any(sample.whole for sample in samples),
        growth=[] if batching else find_growth(samples, schedule),
        assisted=find_assisted(samples, decode),
        compiled=find_compiled(samples),
        breaks=find_breaks(samples),
        setup=setup_ledger(samples, mark_ns) if samples[0].made_by == "generate" else None,
        batching=batching or msgspec.UNSET,
    )


def _distinct(values: Iterator[int | None]) -> list[int]:
    return sorted({value for value in values if value is not None})


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> WatchFindings:
    """A ledger for each line that called generate or a model: a pure function of manifest and samples.

    Raises:
        InputError: there are no samples.
        InvalidMeasurement: a step's parts do not add up to it.
    """
    if not samples:
        raise InputError("the run holds no generate call and no loop; watch a script that makes one")
    conditions = typed(manifest, Conditions)
    schedule = Schedule(alternate=True, every=conditions.every, count=conditions.syncs != NOT_COUNTED)
    sites = find_sites(samples, conditions.mark_ns, schedule)
    ledgers = [(site.site, ledger) for site in sites for ledger in (site.decode, site.prefill) if ledger]
    wide = [site.site for site in sites if site.main is None or site.main.resolved().half_width == inf]
    return WatchFindings(
        sites=sites,
        noise=summarise_noise(sample.noise for sample in samples),
        inside=next((sample.inside for sample in samples if sample.inside is not None), msgspec.UNSET),
        unresolved=f"too few steps for intervals of all parts: {', '.join(wide)}" if wide else "",
        invalid="; ".join(f"{ledger.kind} at {name}: {ledger.invalid}" for name, ledger in ledgers if ledger.invalid),
    )
