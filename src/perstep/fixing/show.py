"""What `perstep fix` found, as tables, as lines to write, as CSV and as the files of a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from perstep.fixing.draft import DRAFTED, verdict
from perstep.fixing.findings import FixFindings, Result, Row, Site
from perstep.fixing.loop import EVIDENCE
from perstep.fixing.samples import RIGHT, Sample
from perstep.fixing.suggest import BETWEEN, DECODE
from perstep.report import Column, Table, to_csv
from perstep.report.change import TimeChange, change_columns
from perstep.report.format import duration, percent, plural, time_unit
from perstep.report.page import Bar, Bars, Content, Drawn
from perstep.report.table import ABSENT, Unit, in_files, time_column, within
from perstep.report.words import render
from perstep.runs import Manifest

_WIDEST = 58
"""A drop-in is cut in the table after this number of characters; the lines to write have it whole."""

_MAKING = 0.01
"""From this share of the call on, the making of a drop-in is worth a note."""


def tables(_manifest: Manifest, findings: FixFindings) -> list[Table]:
    """One table a line that called generate."""
    return [_table(site) for site in findings.sites]


def _table(site: Site) -> Table:
    calls = "" if site.calls == 1 else f", the first of {plural(site.calls, 'call')}"
    results = [row.result for row in site.rows if row.result is not None]
    named = [name for name, of in _CHANGES.items() if any(map(of, results))] or [""]
    return Table(
        title=f"What could replace the parts of the call at {site.site}{calls}",
        columns=_columns(time_unit([row.ns or 0 for row in site.rows]), named),
        records=[(site.site, row) for row in site.rows],
        notes=_notes(site),
    )


_CHANGES: dict[str, Callable[[Result], TimeChange | None]] = {
    "a decode step": lambda result: result.step,
    "the call": lambda result: result.call,
    "the call, projected": lambda result: result.projected,
}
_PREFIXES = dict(zip(_CHANGES, ("step_", "call_", "projected_call_"), strict=True))


def _columns(unit: Unit, named: list[str]) -> list[Column[tuple[str, Row]]]:
    """A row of a line; `named` changes have a column of the table."""

    def of_result(field: str) -> Column[Row]:
        return Column(None, lambda row: row.result and getattr(row.result, field), name=field)

    columns: list[Column[Row]] = [
        Column("part", _name, words=True),
        Column(None, lambda row: " + ".join(row.parts), name="parts"),
        time_column("", lambda row: row.ns, unit, per="/step", name="ns_per_step"),
        Column("of the step", lambda row: row.share, percent, "share"),
        *in_files("most_step_speedup", "most_call_speedup"),
        Column("at most", _at_most, "{:.2f}×".format),
        Column("what could replace it", _replacement, words=True),
        *in_files("drop_in"),
        Column("tokens", lambda row: row.tokens, name="tokens", words=True),
        of_result("new_tokens"),
        *(Column[Row](name or "change", _change_shown(name, first=name == named[0])) for name in named),
        *(column for name in _CHANGES for column in _change_columns(name)),
        of_result("making_ns"),
        *in_files("written", "why", "reason"),
    ]
    return [Column(None, lambda row: row[0], name="site"), *within(columns, lambda row: row[1])]


def _change_columns(name: str) -> list[Column[Row]]:
    """A change as files have it."""

    def change(row: Row) -> TimeChange | None:
        return None if row.result is None else _CHANGES[name](row.result)

    return [replace(column, header=None) for column in change_columns(change, prefix=_PREFIXES[name], mde=False)]


def _change_shown(name: str, *, first: bool) -> Callable[[Row], str]:
    """A change with its verdict, or in the first column why there is none."""

    def cell(row: Row) -> str:
        if not row.drop_in or (row.result is None and not first):
            return ABSENT
        if row.result is None:
            return "not timed" if row.tokens in RIGHT and not row.clash else "not used"
        return _with_verdict(_CHANGES[name](row.result) if name else None)

    return cell


def _replacement(row: Row) -> str:
    replaced = row.drop_in if len(row.drop_in) <= _WIDEST else row.drop_in[: _WIDEST - 1] + "…"
    return replaced or f"– ({row.why})"


def _at_most(row: Row) -> float | None:
    """A bound on every change that stands in the row: of a decode step and of the call, whichever is larger."""
    if not row.drop_in or row.most_step_speedup is None or row.most_call_speedup is None:
        return None
    return max(row.most_step_speedup, row.most_call_speedup)


def _with_verdict(arm: TimeChange | None) -> str:
    """A change and its verdict; why there is none stands in a note."""
    return "–" if arm is None else f"{arm.percent(2)} {arm.verdict.split(' (the machine')[0]}".removeprefix("– ")


def _name(row: Row) -> str:
    """The last part of those that go together, and how many these are."""
    return row.parts[-1] + (f" +{len(row.parts) - 1}" if len(row.parts) > 1 else "")


def _notes(site: Site) -> list[str]:
    if site.refused:
        return [f"Nothing was tried: {site.refused}.", *_in_any_case(site)]
    notes = _all_lines(site)
    if not any(row.drop_in and row.tokens in RIGHT for row in site.rows):
        notes.append("No drop-in does what this call does.")
    for row in site.rows:
        notes += _on_the_row(row, site)
    return (
        notes
        + [note for row in site.rows if row.parts == [BETWEEN] for note in _on_the_loop(site, row)]
        + (_in_any_case(site))
    )


def _on_the_row(row: Row, site: Site) -> list[str]:
    """What to know of a row: the evidence, what it was timed beside, its set-up, a bound that did not hold."""
    named, said = " + ".join(row.parts), _on_the_draft(row, site)
    if row.drop_in and row.parts != [BETWEEN]:
        said.append(row.why if row.tokens != "differ" else f"{row.why}, but the whole call gave other tokens")
    if row.reason:
        said.append(f"{row.why}: {row.reason}")
    if row.clash:
        beside = ", ".join(row.clash)
        said.append(
            f"alone it gives the call's tokens, but beside {beside} it gives others; it is dropped, the rest is kept"
        )
    if row.result is not None:
        said += _on_the_result(row.result)
    if row.no_bound:
        said.append(
            f"no bound: {row.no_bound}; other parts may cost less without it, the watched call may have been another,"
            " or it is chance"
        )
    if row.instead:
        said.append(f"or {row.instead}")
    return [f"{named}: {one}." for one in said]


def _on_the_draft(row: Row, site: Site) -> list[str]:
    """Whether a draft pays, where that was timed."""
    if row.parts != [DRAFTED] or row.result is None:
        return []
    whole, projected = row.result.whole, row.result.projected is not None
    return [verdict(site.all_tokens, row.forwards, whole.verdict, whole.change, projected=projected)]


def _on_the_result(result: Result) -> list[str]:
    said = []
    if result.beside:
        said.append(f"its changes are against the call with {' and '.join(result.beside)}")
    if result.whole.change is None:
        tokens = plural(result.new_tokens, "new token")
        said.append(
            f"{result.whole.verdict}; the processor time of the timed calls of {tokens}, without all waiting:"
            f" {_change(result.processor)}"
        )
    call_ns = result.whole.ns
    if result.making_ns > _MAKING * call_ns:
        said.append(
            f"making it takes {duration(result.making_ns, 2)} in every call, {percent(result.making_ns / call_ns)} of"
            " it. That is counted. Made once before a loop over calls, it would be paid once"
        )
    return said


def _all_lines(site: Site) -> list[str]:
    """What all lines won together, and how that is known; what was tried together besides."""
    said = []
    if site.together is not None:
        each = ""
        if len(site.together.drop_ins) > 1 and site.together.whole.verdict != "faster":
            each = "; each was faster together with those before it"
        said.append(f"All lines together: {_in_words(site.together, site)}{each}.")
    elif any(row.unproven for row in site.rows):
        said.append("No drop-in was proven faster, so no line is recommended.")
    if site.set_aside is not None:
        said.append(f"{' and '.join(site.set_aside.drop_ins)} together: {_in_words(site.set_aside, site)}.")
    if any(row.result and not row.result.whole.resolved for row in site.rows):
        said.append("A larger --budget, on a quiet machine, may resolve more.")
    return said


def _in_words(result: Result, site: Site) -> str:
    """A result in a sentence: the whole call's change first, and from what it is known."""
    rounds = plural(result.rounds, "round")
    step = "" if result.step is None else f"; a decode step {_change(result.step)}"
    if result.projected is not None:
        rest = site.all_tokens - result.new_tokens
        return (
            f"{_change(result.projected)} of the call's time, projected from its first {result.new_tokens} of"
            f" {plural(site.all_tokens, 'new token')} (set-up and prefill once, and {plural(rest, 'further step')} "
            f"like the mean of the {result.new_tokens - 1} that were timed){step}, measured in {rounds}"
        )
    if result.new_tokens >= site.all_tokens:
        return f"{_change(result.whole)} of the whole call's time, set-up and prefill included{step}, in {rounds}"
    over = f"the first {result.new_tokens} of its {plural(site.all_tokens, 'new token')}"
    return f"{_change(result.whole)} of the call's time over {over}, the prefill included, in {rounds}"


def _change(arm: TimeChange) -> str:
    return arm.verdict if arm.change is None else f"{arm.verdict}, {_shown(arm)}"


def _shown(arm: TimeChange) -> str:
    return f"{arm.percent(2)} {arm.interval(missing='(no interval)')}"


def _on_the_loop(site: Site, row: Row) -> list[str]:
    """What to know of generate's own loop and of what takes its place."""
    said = [f"{BETWEEN}: {', '.join(site.loop)}."] if site.loop else []
    if row.tokens == "not made":
        return [*said, f"{DECODE}: not tried, {row.why}."]
    if row.why.startswith(f"{EVIDENCE}; "):
        said.append(f"{DECODE}: {row.why.removeprefix(f'{EVIDENCE}; ')}.")
    if row.leans:
        said.append(f"{DECODE}: only with the other lines; without them {row.why}.")
    if row.drop_in and site.dispatch_ns:
        said.append(
            f"In every step transformers inspects the signatures of the processors, {duration(site.dispatch_ns, 2)} in"
            f" their parts{' and in the bound' if _at_most(row) else ''}. {DECODE} does not."
        )
    if row.tokens == "equal in distribution":
        said.append(
            f"{DECODE} draws from the same distribution with its own random numbers. With these in both loops the"
            " tokens are the same, but those of a seeded script change. Leave its line out to keep the same text."
        )
    elif row.tokens == "differ":
        said.append(f"{DECODE}: the whole call gave other tokens.")
    return said


def _in_any_case(site: Site) -> list[str]:
    said = []
    if site.ledger_invalid:
        said.append(f"The ledger is invalid, and so are the shares: {site.ledger_invalid}.")
    if site.step_ns is None:
        said.append("No decode step could be seen, so there are no shares.")
    if site.streams:
        said.append(
            "The timed calls have no streamer. The call that streams takes longer, so its change is a smaller share."
        )
    if site.beams > 1:
        said.append(
            f"The call has {plural(site.beams, 'beam')}. No drop-in does beam search, so what lies between its forwards"
            " stays. Drop-ins for its processors and criteria keep the beams and were tried. Fewer beams give another"
            " text, so that was not tried."
        )
    if site.shared and not site.refused:
        said.append(
            f"{', '.join(site.shared)} could not be copied, so all repeated calls share it. Two of them gave the call's"
            " tokens."
        )
    return said


def lines(site: Site) -> str:
    """What to write into the call, ready to be copied, and apart from it what is unproven; empty without either."""
    top = f", with {' and '.join(f'`{one}`' for one in site.imports)} at the top of the file" if site.imports else ""
    why = f" (no diff: {site.by_hand})" if site.by_hand else ""
    paragraphs = []
    if site.lines:
        paragraphs += [f"Write into the call at {site.site}{top}{why}:", "", *(f"    {one}" for one in site.lines)]
    apart = unproven(site)
    if apart:
        paragraphs += [*[""][: len(paragraphs)], f"{UNPROVEN}:", "", *(f"    {one}" for one in apart)]
    return "".join(f"{one}\n" for one in paragraphs)


UNPROVEN = "Not proven faster, so not recommended (the tokens are the same)"


def unproven(site: Site) -> list[str]:
    """The drop-ins that give the right tokens and were not faster beyond doubt, each with what is known of it."""
    return [f"{row.drop_in}  # {_name(row)}: {_what_is_known(row, site)}" for row in site.rows if row.unproven]


def _what_is_known(row: Row, site: Site) -> str:
    if row.result is None:
        return "not timed: too small a part" if not row.leans else "not timed: it works beside other lines alone"
    arm = row.result.whole
    of = "the call, projected" if row.result.projected else "the call"
    why = ""
    if arm.verdict == "faster":  # by itself, and not together with the others
        why = f"; not so together with {', '.join(_others_of(row, site))}"
    if arm.change is None:
        return arm.verdict
    return f"{_shown(arm)} of {of}, {arm.verdict}{why}"


def _others_of(row: Row, site: Site) -> list[str]:
    return [one for one in (site.set_aside.drop_ins if site.set_aside else []) if one != row.drop_in]


def csv(findings: FixFindings) -> str:
    """A row a part of each line, with nanoseconds and shares as plain numbers; measured and derived apart."""
    rows: list[tuple[str, Row]] = []
    for site in findings.sites:
        rows += [(site.site, row) for row in site.rows]
        if site.together is not None:
            of, lines_together = ["all lines together"], " ".join(site.lines)
            every = Row(
                parts=of, ns=site.step_ns, drop_in=lines_together, result=site.together, written=bool(site.lines)
            )
            rows.append((site.site, every))
    return to_csv(_columns(("ns", 1.0), [""]), rows)


def files(manifest: Manifest, findings: FixFindings) -> Mapping[str, bytes]:
    """`README.md`, `fix.csv`, and `fix.diff` where there is one."""
    readme = render(
        __package__,
        manifest=manifest,
        findings=findings,
        sites=list(zip(findings.sites, tables(manifest, findings), strict=True)),
        in_words=_in_words,
        unproven=unproven,
        heading=UNPROVEN,
    )
    contents = {"README.md": readme, "fix.csv": csv(findings).encode()}
    if findings.diff:
        contents["fix.diff"] = findings.diff.encode()
    return contents


def content(_manifest: Manifest, findings: FixFindings, _samples: Sequence[Sample]) -> Content:
    """The page's: what each drop-in changed, with its interval and verdict, and what the parts of a step cost."""
    figures: list[Drawn] = []
    for site in findings.sites:
        timed = [(f"{_name(row)}: {row.drop_in}", row.result) for row in site.rows if row.result]
        timed += [("all lines together", site.together)] if site.together else []
        bars = [
            Bar.of_change(name, result.whole, _change(result.whole) + (", projected" if result.call is None else ""))
            for name, result in timed
        ]
        if bars:
            note = "Within the band of ±1 % a change counts as the same. Changes are of the call's time."
            figures.append(Bars(f"What a drop-in changed at {site.site}", "%", bars, within=1.0, note=note))
        costs = [(" + ".join(row.parts), row.ns, row.share) for row in site.rows if row.ns is not None]
        unit, size = time_unit([ns for _, ns, _ in costs])
        parts = [
            Bar(name, ns / size, words=f"{duration(ns)}{'' if share is None else f', {percent(share)} of the step'}")
            for name, ns, share in costs
        ]
        if parts:
            figures.append(Bars(f"What could be replaced at {site.site}, per step", unit, parts))
    return Content("; ".join(_finding(site) for site in findings.sites) or "no call was tried", figures)


def _finding(site: Site) -> str:
    if site.refused:
        return f"{site.site}: nothing was tried: {site.refused}"
    if site.together is None:
        return f"{site.site}: no line is recommended"
    projected = ", projected" if site.together.call is None else ""
    return f"{site.site}: {_change(site.together.whole)} of the call's time{projected}, with all recommended lines"
