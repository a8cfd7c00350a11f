"""`watch`: what each part of a step costs in somebody's own generate calls, from the calls that were recorded.

A sample is one call; `watching.py` makes them. Calls from one line of the source have one ledger for decode
steps and one for prefills (`measure.build_watched_ledger`). Nothing is replayed, warmed up or repeated, so
there are no verdicts here and no rounds to be added.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any

import msgspec
import numpy as np

from perstep.errors import InputError
from perstep.experiments.call_recorder import CallSteps
from perstep.experiments.device_ledger import DeviceLedger, device_table
from perstep.experiments.sync_counts import SyncCounts, merge_counts, with_syncs
from perstep.machine import Noise, NoiseSummary, summarise_noise
from perstep.measure import FORWARD, Ledger, WatchedSteps, belongs, build_watched_ledger
from perstep.report import Table, to_csv
from perstep.report.format import duration, percent, plural
from perstep.report.ledger import ledger_png, ledger_table
from perstep.report.words import render
from perstep.runs import Manifest
from perstep.targets.transformers.words import DECODE, PREFILL

KINDS = (DECODE, PREFILL)
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
        costliest: the part outside the forward that takes most of a decode step (of the prefill where there is none).
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
    ledger = _build(kind, samples, [s.kinds.get(kind) for s in samples], mark_ns)
    if ledger is None:
        return None
    counted = merge_counts([s.syncs[kind] for s in samples if kind in s.syncs])
    return with_syncs(ledger, counted, device=samples[0].device)


def device_ledger(kind: str, samples: Sequence[Sample]) -> DeviceLedger | None:
    """The ledger of the device's time in calls, or None where there is none."""
    # What a mark costs the device is not known, only what it costs the host.
    ledger = _build(kind, samples, [s.device_kinds.get(kind) for s in samples], 0.0)
    if ledger is None:
        return None
    idle = [s.idle_kinds[kind] for s in samples if kind in s.idle_kinds]
    parts = {
        name: sum(int(c.parts[name].sum()) for c in idle if name in c.parts) / ledger.steps for name in ledger.parts
    }
    parts["residual"] = sum(int(c.residual_ns.sum()) for c in idle) / ledger.steps
    return DeviceLedger(ledger=ledger, idle_ns_per_step=sum(parts.values()), idle_parts_ns=parts)


def _build(kind: str, samples: Sequence[Sample], columns: Sequence[CallSteps | None], mark_ns: float) -> Ledger | None:
    held = [(sample, steps) for sample, steps in zip(samples, columns, strict=True) if steps is not None]
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
        alike=len({(s.finished, s.rows, s.prompt_tokens, s.steps) for s, _ in held}) == 1,
        forwards=sum(_forwards(sample, kind) for sample in samples),
    )
    return build_watched_ledger(kind, watched, mark_ns=mark_ns)


def _forwards(sample: Sample, kind: str) -> int:
    """Forwards of this kind: a decode step makes one; the first step, the prefill, made the others."""
    decode = max(0, sample.steps - 1)
    return decode if kind == DECODE else sample.forwards - decode


def find_sites(samples: Sequence[Sample], mark_ns: float) -> list[SiteFindings]:
    """What the calls of each line cost: a pure function."""
    return [_site(name, held, mark_ns) for name, held in by_site(samples).items()]


def _site(name: str, samples: list[Sample], mark_ns: float) -> SiteFindings:
    decode, prefill = (call_ledger(kind, samples, mark_ns) for kind in KINDS)
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
        costliest=_costliest(decode or prefill),
        notes=notes,
        device_ledgers=beside,
    )


def _distinct(values: Iterator[int | None]) -> list[int]:
    return sorted({value for value in values if value is not None})


def _costliest(ledger: Ledger | None) -> str:
    """The part outside the forward that costs most, or nothing."""
    if ledger is None:
        return ""
    outside = {name: part.ns for name, part in ledger.parts.items() if not belongs(name, FORWARD)}
    return max(outside, key=outside.__getitem__, default="")


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
    title = f"{beside.ledger.kind}, device time at {site.site}: {_subject(site)}"
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
    """What a reader wants to know first: the most costly part that is no forward, and what the prefill took."""
    said = []
    if site.main is not None and site.costliest:
        part = site.main.parts[site.costliest]
        said.append(
            f"Outside the forward {site.costliest} costs most: {duration(part.ns)} of a {site.main.kind} step,"
            f" {percent(part.share)}."
        )
    if site.decode is not None and site.prefill is not None:
        said.append(f"A prefill took {duration(site.prefill.step_ns)}, the set-up of the call included.")
    return said


def tables(_manifest: Manifest, findings: WatchFindings) -> list[Table]:
    """One ledger a line that called generate."""
    return [table for site in findings.sites for table in site_tables(site)]


def files(manifest: Manifest, findings: WatchFindings) -> Mapping[str, bytes]:
    """`ledger.png` (where there is anything to draw) with its CSV, and `README.md`."""
    drawn = [(site, site.main) for site in findings.sites if site.main is not None]
    drawn = sorted(drawn, key=lambda pair: -pair[1].step_ns)[:MOST_BARS]
    prefills = [
        ledger_table(site.prefill, title=f"prefill at {site.site}", forwards_in=f"in {plural(site.calls, 'call')}")
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
        "headline": f"{site.site}: {sentences(site)[0]}" if site.costliest else site.site,
        "sites": len(findings.sites),
        "calls": sum(site.calls for site in findings.sites),
        "costliest": site.costliest,
    }
