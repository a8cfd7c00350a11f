"""`watch`: what each part of a step costs in somebody's own generate calls, from the calls that were recorded.

A sample is one call; `watching.py` makes them. Calls from one line of the source have one ledger for decode
steps and one for prefills (`measure.build_watched_ledger`); first calls stand apart (`first_calls.py`). Nothing is
replayed, warmed up or repeated, so there are no verdicts here and no rounds to be added; what is said in words is
resolved by the intervals, or a fact of the recorded steps.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any

import msgspec
import numpy as np

from perstep.errors import InputError
from perstep.experiments.call_recorder import CallSteps
from perstep.experiments.device_ledger import DeviceLedger, device_table
from perstep.experiments.first_calls import (
    Chosen,
    FirstCall,
    choose,
    find_first_calls,
    first_call_sentences,
)
from perstep.experiments.sync_counts import SyncCounts, merge_counts, with_syncs
from perstep.machine import Noise, NoiseSummary, summarise_noise
from perstep.measure import Ledger, WatchedSteps, build_watched_ledger
from perstep.report import Table, to_csv
from perstep.report.format import duration, percent, plural
from perstep.report.ledger import ledger_png, ledger_table
from perstep.report.words import render
from perstep.runs import Manifest
from perstep.targets.transformers.words import DECODE, PREFILL

KINDS = (DECODE, PREFILL)
NAMED_TOGETHER = 3
"""So many parts are named where it is not resolved which of them costs most."""
MOST_BARS = 6
"""So many ledgers are drawn; those of the longest steps."""


class Sample(msgspec.Struct, kw_only=True):
    """One generate call. `steps` and `forwards` are all it made, or, if it broke off, those that were recorded.

    `kinds` is the host's time; `device_kinds` and `idle_kinds` are the device's, where there is one.
    """

    site: str
    model: str
    device: str
    dtype: str
    finished: bool
    rows: int | None
    prompt_tokens: int | None
    new_tokens: int | None
    steps: int
    forwards: int
    kinds: dict[str, CallSteps]
    notes: list[str]
    noise: Noise
    syncs: dict[str, SyncCounts] = {}
    device_kinds: dict[str, CallSteps] = {}
    idle_kinds: dict[str, CallSteps] = {}


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
        first_calls: what those calls took that stand apart.
        prefill_is_first: the ledger of the prefill is of first calls alone.
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

    @property
    def main(self) -> Ledger | None:
        """The ledger of decode steps, or where there are none that of the prefill."""
        return self.decode or self.prefill


class WatchFindings(msgspec.Struct, kw_only=True):
    """`results.json`."""

    sites: list[SiteFindings]
    noise: NoiseSummary
    unresolved: str
    invalid: str


def by_site(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The calls of each line; where a line called several models, of each of them."""
    models: dict[str, set[str]] = {}
    for sample in samples:
        models.setdefault(sample.site, set()).add(sample.model)
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        name = sample.site if len(models[sample.site]) == 1 else f"{sample.site} ({sample.model})"
        groups.setdefault(name, []).append(sample)
    return groups


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
        note = f"First calls stand apart: the rows leave out {apart:,} of {plural(recorded, f'{kind} step')}."
        ledger = msgspec.structs.replace(ledger, notes=[*ledger.notes, note])
    counted = merge_counts([s.syncs[kind] for s in samples if kind in s.syncs])
    return with_syncs(ledger, counted, device=samples[0].device)


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
    kind: str, samples: Sequence[Sample], held: Sequence[tuple[Sample, CallSteps]], mark_ns: float
) -> Ledger | None:
    steps = [each for _, each in held]
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
        alike=_alike(held),
        forwards=sum(_forwards(sample, kind) for sample in samples),
    )
    return build_watched_ledger(kind, watched, mark_ns=mark_ns)


def _alike(held: Sequence[tuple[Sample, CallSteps]]) -> bool:
    """Whether the calls repeat each other: one shape, and the same parts; a median would lose a part of a few calls."""
    shapes = {(sample.finished, sample.rows, sample.prompt_tokens, sample.steps) for sample, _ in held}
    parts = {frozenset(steps.parts) for _, steps in held if len(steps.residual_ns)}
    return len(shapes) == len(parts) == 1


def _forwards(sample: Sample, kind: str) -> int:
    """Forwards of this kind: a decode step makes one; the first step, the prefill, made the others."""
    decode = max(0, sample.steps - 1)
    return decode if kind == DECODE else sample.forwards - decode


def find_sites(samples: Sequence[Sample], mark_ns: float) -> list[SiteFindings]:
    """What the calls of each line cost: a pure function."""
    return [_site(name, held, mark_ns) for name, held in by_site(samples).items()]


def _site(name: str, samples: list[Sample], mark_ns: float) -> SiteFindings:
    decode, prefill = (call_ledger(kind, samples, mark_ns) for kind in KINDS)
    main = decode or prefill
    broken_off = sum(not sample.finished for sample in samples)
    notes = list(dict.fromkeys(note for sample in samples for note in sample.notes))
    if broken_off:
        notes.append(f"{plural(broken_off, 'call')} broke off with an exception; the steps finished before it count.")
    beside = {kind: found for kind in KINDS if (found := device_ledger(kind, samples)) is not None}
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
    )


def _distinct(values: Iterator[int | None]) -> list[int]:
    return sorted({value for value in values if value is not None})


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> WatchFindings:
    """A ledger for each line that called generate: a pure function of manifest and samples.

    Raises:
        InputError: there are no samples.
        InvalidMeasurement: a step's parts do not add up to it.
    """
    if not samples:
        raise InputError("the run holds no generate call; watch a script that makes one")
    sites = find_sites(samples, manifest.conditions["mark_ns"])
    ledgers = [(site.site, ledger) for site in sites for ledger in (site.decode, site.prefill) if ledger]
    wide = [site.site for site in sites if site.main is None or site.main.resolved().half_width == inf]
    return WatchFindings(
        sites=sites,
        noise=summarise_noise(sample.noise for sample in samples),
        unresolved=f"too few steps for intervals of all parts: {', '.join(wide)}" if wide else "",
        invalid="; ".join(f"{ledger.kind} at {name}: {ledger.invalid}" for name, ledger in ledgers if ledger.invalid),
    )


def site_tables(site: SiteFindings) -> list[Table]:
    """The ledger of a line as a table, and where there is a device its ledger as a second one."""
    beside = None if site.main is None else site.device_ledgers.get(site.main.kind)
    if beside is None:
        return [_host_table(site)]
    title = f"{beside.ledger.kind}, time on the device's stream at {site.site}: {_subject(site)}"
    return [_host_table(site), device_table(beside, title=title, forwards_in=f"in {plural(site.calls, 'call')}")]


def _host_table(site: SiteFindings) -> Table:
    subject = f"{site.site}: {_subject(site)}"
    if site.main is None:
        return Table(title=subject, header=["part"], rows=[], notes=["No step could be seen.", *site.notes])
    calls = f"in {plural(site.calls, 'call')}"
    host = ", host time" if site.main.kind in site.device_ledgers else ""
    table = ledger_table(site.main, title=f"{site.main.kind}{host} at {subject}", forwards_in=calls)
    table.notes[:0] = sentences(site)
    table.notes.extend(site.notes)
    return table


def _subject(site: SiteFindings) -> str:
    facts = [site.model, plural(site.calls, "call")]
    for name, values in (("batch", site.rows), ("prompt", site.prompt_tokens), ("new tokens", site.new_tokens)):
        if values:
            facts.append(f"{name} {values[0]}" + (f" to {values[-1]}" if len(values) > 1 else ""))
    return ", ".join(facts)


def sentences(site: SiteFindings) -> list[str]:
    """What a reader wants to know first: the most costly part that is no forward, and what the prefills took."""
    said = []
    if site.main is not None and site.main.largest_outside:
        said.append(_costliest_sentence(site.main))
    if site.decode is not None and site.prefill is not None:
        said.append(_prefill_sentence(site, site.prefill))
    return [*said, *first_call_sentences(site.first_calls)]


def _costliest_sentence(ledger: Ledger) -> str:
    """A part is named as the most costly only where the rounds tell it from the others."""
    names = ledger.largest_outside
    if len(names) == 1:
        part = ledger.parts[names[0]]
        return (
            f"Outside the forward {names[0]} costs most: {duration(part.ns)} of a {ledger.kind} step,"
            f" {percent(part.share)}."
        )
    if len(names) <= NAMED_TOGETHER:
        return f"Outside the forward {', '.join(names[:-1])} or {names[-1]} costs most; which of them is not resolved."
    return f"Which part outside the forward costs most is not resolved in {plural(ledger.rounds, 'round')}."


def _prefill_sentence(site: SiteFindings, ledger: Ledger) -> str:
    """The median prefill and the part of it with most time; facts of the recorded calls."""
    most = max(ledger.parts, key=lambda name: ledger.parts[name].ns, default="")
    inside = f", {most} {duration(ledger.parts[most].ns)} of it" if most and ledger.parts[most].ns else ""
    of = "" if ledger.steps == 1 else f" (the median of {ledger.steps:,})"
    warm = "; it is of a first call, and holds what that warmed up" if site.prefill_is_first else ""
    return f"A prefill took {duration(ledger.step_ns)}{of}, the set-up of the call included{inside}{warm}."


def tables(_manifest: Manifest, findings: WatchFindings) -> list[Table]:
    """One ledger a line that called generate."""
    return [table for site in findings.sites for table in site_tables(site)]


def files(manifest: Manifest, findings: WatchFindings) -> Mapping[str, bytes]:
    """`ledger.png` (where there is anything to draw) with its CSV, and `README.md`."""
    drawn = [(site, site.main) for site in findings.sites if site.main is not None]
    drawn = sorted(drawn, key=lambda pair: -pair[1].step_ns)[:MOST_BARS]
    prefills = [
        ledger_table(site.prefill, title=_prefill_title(site), forwards_in=f"in {plural(site.calls, 'call')}")
        for site in findings.sites
        if site.decode is not None and site.prefill is not None
    ]
    readme = render(
        "watch.md",
        manifest=manifest,
        findings=findings,
        sentences=sentences,
        subject=_subject,
        tables=tables(manifest, findings),
        prefills=prefills,
        drawn=drawn,
    )
    made = {"README.md": readme, "ledger.csv": csv(findings).encode()}
    if drawn:
        subjects = [f"{site.site}, {site.model}" for site, _ in drawn]
        made["ledger.png"] = ledger_png([ledger for _, ledger in drawn], subject=subjects)
    return made


def _prefill_title(site: SiteFindings) -> str:
    return f"{'prefill of a first call' if site.prefill_is_first else 'prefill'} at {site.site}"


def csv(findings: WatchFindings) -> str:
    """A row a part of each ledger, in nanoseconds, with the call site."""
    rows: list[list[object]] = []
    for site in findings.sites:
        for ledger in (site.decode, site.prefill):
            if ledger is None:
                continue
            rows += [
                [site.site, ledger.kind, name, part.ns_per_step, part.share, part.ci_low, part.ci_high]
                for name, part in ledger.parts.items()
            ]
            rows.append([site.site, ledger.kind, "residual", ledger.residual_ns, ledger.residual_share, None, None])
    return to_csv(["site", "kind", "part", "ns_per_step", "share", "ci_low_ns", "ci_high_ns"], rows)


def summary(findings: WatchFindings) -> dict[str, Any]:
    """The headline for `perstep list`: of the line where most time was recorded."""
    seen = [site for site in findings.sites if site.main is not None]
    if not seen:
        return {"headline": "no step could be seen"}
    site = max(seen, key=lambda site: site.main.step_ns_total if site.main else 0)
    return {
        "headline": f"{site.site}: {said[0]}" if (said := sentences(site)) else site.site,
        "sites": len(findings.sites),
        "calls": sum(site.calls for site in findings.sites),
        "costliest": site.costliest,
    }
