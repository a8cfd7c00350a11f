"""The findings of `watch` as tables, sentences, CSV, picture and README."""

from collections.abc import Mapping, Sequence

import msgspec

from perstep._json import Json
from perstep.experiments.device.stream import device_table
from perstep.experiments.ledger.device.show import device_lane
from perstep.measure import FORWARD, RESIDUAL_SAID, Ledger, belongs
from perstep.report import Column, Table
from perstep.report.format import duration, percent, plural, time_unit
from perstep.report.ledger import ledger_csv, ledger_png, ledger_table
from perstep.report.page import Content, LedgerView
from perstep.report.table import time_column
from perstep.report.words import render
from perstep.runs import Manifest
from perstep.targets.transformers.words import (
    ENCODER,
    PREFILL,
    SETUP_CACHE,
    SETUP_CRITERIA,
    SETUP_PROCESSORS,
    VISION,
)
from perstep.watching.assisted import assisted_sentences
from perstep.watching.batching import batching_sentences, batching_table
from perstep.watching.compiled import compiled_sentences
from perstep.watching.findings import SiteFindings, WatchFindings, marked_steps
from perstep.watching.first_calls import first_call_sentences
from perstep.watching.growth import USE_CACHE, WHOLE, growth_sentences
from perstep.watching.samples import Inside, InsideLine, Sample, by_site

NAMED_TOGETHER = 3
"""Most parts that are named where it is not resolved which of them costs most."""
SETUP_SAID = 0.1
"""Share of a call from which on a part of its set-up is named."""
_BUILT = {
    SETUP_PROCESSORS: "the logits processors",
    SETUP_CRITERIA: "the stopping criteria",
    SETUP_CACHE: "the cache",
    ENCODER: "what the encoder gives",
    VISION: "what the vision tower gives",
}
MOST_BARS = 6
"""Number of ledgers that are drawn: those of the longest steps."""


def site_tables(site: SiteFindings) -> list[Table]:
    """The ledger of a line as a table, and where there is a device its ledger as a second one."""
    beside = None if site.main is None else site.device_ledgers.get(site.main.kind)
    if beside is None:
        batching = site.batching or None
        return [_host_table(site), *([batching_table(site.site, batching)] if batching and batching.levels else [])]
    title = f"{beside.ledger.kind}, time on the device's stream at {site.site}: {_subject(site)}"
    return [_host_table(site), device_table(beside, title=title, forwards_in=f"in {_calls(site)}")]


def _host_table(site: SiteFindings) -> Table:
    subject = f"{site.site}: {_subject(site)}"
    if site.main is None:
        return Table(subject, [Column("part", str, words=True)], [], notes=["No step could be seen.", *site.notes])
    calls = f"in {_calls(site)}"
    host = ", host time" if site.main.kind in site.device_ledgers else ""
    table = ledger_table(site.main, title=f"{site.main.kind}{host} at {subject}", forwards_in=calls)
    first = int(site.main.residual_share > RESIDUAL_SAID)  # after the note on it
    table.notes[first:first] = sentences(site)
    table.notes.extend(site.notes)
    return table


def _calls(site: SiteFindings) -> str:
    return plural(site.calls, "call" if site.made_by == "generate" else "run")


def _subject(site: SiteFindings) -> str:
    facts = [site.model, _calls(site)]
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
    said += setup_sentences(site)
    if site.whole and not any(growth.grows and belongs(growth.part, FORWARD) for growth in site.growth):
        said.append(f"No KV cache is used{USE_CACHE if site.made_by == 'generate' else ''}: {WHOLE}.")
    said += growth_sentences(site.growth, whole=site.whole, made_by=site.made_by)
    said += assisted_sentences(site.assisted)
    said += batching_sentences(site.batching or None)
    said += compiled_sentences(site.compiled, site.breaks)
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
    warm = "; it belongs to a first call and includes its warm-up" if site.prefill_is_first else ""
    setup = ", the set-up of the call included" if site.made_by == "generate" else ""
    what = "A step with a prompt in the batch" if site.made_by == "batching" else "A prefill"
    return f"{what} took {duration(ledger.step_ns)}{of}{setup}{inside}{warm}."


def setup_sentences(site: SiteFindings) -> list[str]:
    """What is built before the first token and costs a tenth of a call or more."""
    setup, decode = site.setup, site.decode
    if setup is None or decode is None:
        return []
    steps = decode.forwards / site.calls
    decode_ns = decode.step_ns * steps
    said = []
    for name, what in _BUILT.items():
        part = setup.parts.get(name)
        if part is not None and part.ns >= SETUP_SAID * (setup.step_ns + decode_ns):
            run_ns = setup.parts[PREFILL].ns + decode_ns
            than = "more than" if part.ns > run_ns else f"{percent(part.ns / run_ns)} of what"
            said.append(
                f"Building {what} takes {duration(part.ns)} a call ({name}): {than} its prefill and {steps:.0f} decode"
                f" steps take, {duration(run_ns)}."
            )
    return said


def tables(_manifest: Manifest, findings: WatchFindings) -> list[Table]:
    """One ledger a line that called generate, or a model in a loop; and one part by its own lines where asked for."""
    shown = [table for site in findings.sites for table in site_tables(site)]
    return shown if isinstance(findings.inside, msgspec.UnsetType) else [*shown, inside_table(findings.inside)]


def inside_table(inside: Inside) -> Table:
    """What the source lines of one part take, the costliest first."""
    whole_ns = sum(line.ns for line in inside.lines) or 1
    unit = time_unit([line.ns / inside.traced for line in inside.lines])
    columns: list[Column[InsideLine]] = [
        Column("line", lambda line: line.place, words=True),
        Column("source", lambda line: line.source, words=True),
        time_column("", lambda line: line.ns / inside.traced, unit, per="/call", name="ns_per_call"),
        Column("of its lines", lambda line: line.ns / whole_ns, percent),
        Column("syncs a call", lambda line: _a_call(line.syncs, inside), "{:.3g}".format),
        Column("uploads a call", lambda line: _a_call(line.uploads, inside), "{:.3g}".format),
    ]
    return Table(
        f"inside {inside.part}, by its own source lines, in {plural(inside.traced, 'call')}",
        columns,
        sorted(inside.lines, key=lambda line: -line.ns),
        notes=[
            (
                "The tracer is in these times, most in lines that call much Python. The calls lie in steps that no "
                f"ledger has. Syncs were counted apart, in {plural(inside.counted, 'call')}."
            ),
            *(f"{note[0].upper()}{note[1:]}." for note in inside.notes),
        ],
    )


def _a_call(count: int, inside: Inside) -> float | None:
    return count / inside.counted if inside.counted else None


def files(manifest: Manifest, findings: WatchFindings) -> Mapping[str, bytes]:
    """`ledger.png` (where there is anything to draw) with its CSV, and `README.md`."""
    drawn = [(site, site.main) for site in findings.sites if site.main is not None]
    drawn = sorted(drawn, key=lambda pair: -pair[1].step_ns)[:MOST_BARS]
    prefills = [
        ledger_table(site.prefill, title=_prefill_title(site), forwards_in=f"in {_calls(site)}")
        for site in findings.sites
        if site.decode is not None and site.prefill is not None
    ]
    setups = [
        ledger_table(site.setup, title=f"setup at {site.site}", forwards_in=f"in {_calls(site)}")
        for site in findings.sites
        if site.decode is not None and site.setup is not None
    ]
    readme = render(
        __package__,
        manifest=manifest,
        findings=findings,
        sentences=sentences,
        subject=_subject,
        tables=tables(manifest, findings),
        prefills=prefills,
        setups=setups,
        drawn=drawn,
    )
    contents = {"README.md": readme, "ledger.csv": csv(findings).encode()}
    if drawn:
        subjects = [f"{site.site}, {site.model}" for site, _ in drawn]
        contents["ledger.png"] = ledger_png([ledger for _, ledger in drawn], subject=subjects)
    return contents


def _prefill_title(site: SiteFindings) -> str:
    return f"{'prefill of a first call' if site.prefill_is_first else 'prefill'} at {site.site}"


def csv(findings: WatchFindings) -> str:
    """A row a part of each ledger, in nanoseconds, with the call site."""
    seen = [
        (ledger, site.site) for site in findings.sites for ledger in (site.decode, site.prefill, site.setup) if ledger
    ]
    return ledger_csv([ledger for ledger, _ in seen], sites=[site for _, site in seen])


def summary(findings: WatchFindings) -> dict[str, Json]:
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


def content(manifest: Manifest, findings: WatchFindings, samples: Sequence[Sample]) -> Content:
    """The page's: the ledger of each line that called generate, that of the longest steps first."""
    calls = by_site(samples)
    seen = [(site, site.main) for site in findings.sites if site.main is not None]
    figures = [
        LedgerView(
            title=f"What a {ledger.kind} step is made of at {site.site}: {_subject(site)}",
            ledger=ledger,
            samples=marked_steps(ledger.kind, calls[site.site]),
            device=device_lane(None, site.device_ledgers.get(ledger.kind)),
            about=manifest.boundaries,
        )
        for site, ledger in sorted(seen, key=lambda pair: -pair[1].step_ns)
    ]
    return Content(str(summary(findings)["headline"]).rstrip("."), figures)
