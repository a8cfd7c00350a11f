"""The findings of `ledger` as tables, CSV, picture and README."""

from collections.abc import Mapping, Sequence

from perstep._json import Json
from perstep.experiments.columns import qualifying_notes
from perstep.experiments.conditions import Model, typed
from perstep.experiments.device.stream import device_table
from perstep.experiments.ledger.bounds import columns_of, spots_of
from perstep.experiments.ledger.device.show import bounding_sentence, device_lane, work_csv, work_table
from perstep.experiments.ledger.findings import LedgerFindings, headline_ns
from perstep.experiments.ledger.samples import Conditions, Sample, Workload, ledger_samples
from perstep.report import Table
from perstep.report.format import duration, plural
from perstep.report.ledger import (
    headline_interval,
    largest_words,
    ledger_csv,
    ledger_png,
    ledger_table,
    overhead_words,
    share_words,
)
from perstep.report.page import Content, Drawn, LedgerView
from perstep.report.words import render
from perstep.runs import Manifest


def tables(manifest: Manifest, findings: LedgerFindings) -> list[Table]:
    """Decode first: it is what most of a generation is made of."""
    w, name = typed(manifest, Workload), typed(manifest, Model).name
    subject = f"{name}, batch {w.batch}, prompt {w.prompt_tokens}, {plural(w.new_tokens, 'new token')}"
    result, bounds = [], columns_of(findings.bounds)
    for ledger in findings.ledgers:
        speed = findings.tokens_per_s if ledger is findings.decode else None
        beside, work = findings.device.get(ledger.kind), findings.device_work.get(ledger.kind)
        host = ", host time" if beside or work else ""
        title = f"{ledger.kind}{host}: {subject}"
        result.append(ledger_table(ledger, title=title, tokens_per_s=speed, bounds=bounds.get(ledger.kind)))
        if beside:
            result.append(device_table(beside, title=f"{ledger.kind}, time on the device's stream: {subject}"))
        if work:
            result.append(
                work_table(
                    work,
                    title=f"{ledger.kind}, what the device does: {subject}",
                    host=ledger,
                    bounds=findings.device_bounds.get(ledger.kind),
                    detail=manifest.plan.get("device_detail") or "parts",
                )
            )
    result[0].notes.extend(qualifying_notes(findings))
    if findings.bounds_withdrawn:
        result[0].notes.append(f"Bounds: {findings.bounds_withdrawn}.")
    result[0].notes.extend(_turns(findings, w, typed(manifest, Conditions)))
    result[0].notes.extend(typed(manifest, Conditions).notes)
    return result


def _turns(findings: LedgerFindings, workload: Workload, conditions: Conditions) -> list[str]:
    """What is said of a ledger whose marked and plain steps took turns inside calls."""
    if conditions.turns is None:
        return []
    decode, all_steps = findings.decode, workload.new_tokens - 1
    said = ["Marked and plain steps took turns inside calls; a round is a piece of two calls."]
    if decode is not None and decode.forwards < all_steps:
        said.append(
            f"The first {plural(decode.forwards, 'decode step')} of {all_steps:,} stand for all: calls of all would be "
            "longer than the budget."
        )
    return said


def csv(findings: LedgerFindings) -> str:
    """A row a part of each ledger of the host's time, in nanoseconds."""
    return ledger_csv(findings.ledgers, columns_of(findings.bounds))


def files(manifest: Manifest, findings: LedgerFindings) -> Mapping[str, bytes]:
    """`ledger.png` with its CSV, and `README.md`."""
    return {
        "ledger.png": _png(manifest, findings),
        "ledger.csv": csv(findings).encode(),
        **({"device.csv": work_csv(findings.device_work).encode()} if findings.device_work else {}),
        "README.md": render(
            __package__,
            manifest=manifest,
            findings=findings,
            tables=tables(manifest, findings),
            boundaries=_boundaries(manifest, findings),
            bounding_sentence=bounding_sentence,
            headline_interval=headline_interval,
            overhead_words=overhead_words,
            largest_words=largest_words,
            share_words=share_words,
        ),
    }


def _boundaries(manifest: Manifest, findings: LedgerFindings) -> dict[str, str]:
    """Those of the parts that were seen; a part may be named with its class or layer, as in `stop/X` and `attn/3`."""
    seen = {name for ledger in findings.ledgers for part in ledger.parts for name in (part, part.split("/")[0])}
    return {name: boundary for name, boundary in manifest.boundaries.items() if name in seen}


def _png(manifest: Manifest, findings: LedgerFindings) -> bytes:
    """A bar a ledger, the device's below the host's."""
    name, drawn = typed(manifest, Model).name, []
    for ledger in findings.ledgers:
        beside = findings.device.get(ledger.kind)
        drawn.append((ledger, f"{name}, host time" if beside else name))
        if beside:
            drawn.append((beside.ledger, f"{name}, time on the device's stream"))
    return ledger_png([ledger for ledger, _ in drawn], subject=[subject for _, subject in drawn])


def summary(findings: LedgerFindings) -> dict[str, Json]:
    """The headline for `perstep list`."""
    ledger = findings.decode or findings.prefill
    largest = ledger.largest
    return {
        "headline": f"{duration(headline_ns(ledger))} per {ledger.kind} step, {largest_words(ledger)}",
        "plain_step_ns": ledger.plain_step_ns,
        "overhead": ledger.overhead,
        "residual_share": ledger.residual_share,
        "largest_part": largest[0] if len(largest) == 1 else None,
    }


def content(manifest: Manifest, findings: LedgerFindings, samples: Sequence[Sample]) -> Content:
    """The page's: the ledgers as bars, decode first, and where the parts of its step stand on the roofline."""
    ledger = findings.decode or findings.prefill
    finding = (
        f"{typed(manifest, Model).name}: one {ledger.kind} step takes {duration(headline_ns(ledger))}"
        f" {headline_interval(ledger)}; {largest_words(ledger)}"
    )
    largest = ledger.largest
    if len(largest) == 1:
        finding += f", {share_words(ledger.parts[largest[0]], ledger)}"
    arrays, bounds = ledger_samples(samples), columns_of(findings.bounds)
    order = [" ".join(each.arm for each in sample.passes) for sample in samples]
    figures: list[Drawn] = [
        LedgerView(
            title=f"What a {one.kind} step is made of",
            ledger=one,
            bounds=bounds.get(one.kind),
            samples=arrays[one.kind],
            order=order,
            device=device_lane(findings.device_work.get(one.kind), findings.device.get(one.kind)),
            about=manifest.boundaries,
        )
        for one in findings.ledgers
    ]
    roofline = spots_of(typed(manifest, Conditions).bounds, typed(manifest, Workload), findings.ceilings, ledger)
    return Content(finding, [*figures[:1], *([roofline] if roofline else []), *figures[1:]])
