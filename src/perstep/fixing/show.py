"""What `perstep fix` found, as tables, as lines to write, as CSV and as the files of a run."""

from collections.abc import Mapping

from perstep.fixing.findings import FixFindings, Result, Row, Site
from perstep.fixing.samples import RIGHT
from perstep.fixing.suggest import BETWEEN, DECODE
from perstep.report import Table, to_csv
from perstep.report.change import RelativeChange, TimeChange
from perstep.report.format import duration, percent, plural, significant, time_unit
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
    calls = "" if site.calls == 1 else f", the first of {site.calls} calls"
    unit, size = time_unit([row.ns or 0 for row in site.rows])
    results = [row.result for row in site.rows if row.result is not None]
    changes = {
        "a decode step": any(result.step for result in results),
        "the call": any(result.call for result in results),
        "the call, projected": any(result.projected for result in results),
    }
    named = [name for name, is_there in changes.items() if is_there] or ["change"]
    return Table(
        title=f"What could replace the parts of the call at {site.site}{calls}",
        header=["part", f"{unit}/step", "of the step", "at most", "what could replace it", "tokens", *named],
        rows=[_cells(row, size, named) for row in site.rows],
        text_columns=frozenset({0, 4, 5}),
        notes=_notes(site),
    )


def _cells(row: Row, size: float, changes: list[str]) -> list[str]:
    replaced = row.drop_in if len(row.drop_in) <= _WIDEST else row.drop_in[: _WIDEST - 1] + "…"
    most = _at_most(row)
    return [
        _name(row),
        "–" if row.ns is None else significant(row.ns / size),
        "–" if row.share is None else percent(row.share),
        "–" if most is None else f"{most:.2f}×",
        replaced or f"– ({row.why})",
        row.tokens,
        *_changes(row, changes),
    ]


def _at_most(row: Row) -> float | None:
    """A bound on every change that stands in the row: of a decode step and of the call, whichever is larger."""
    if not row.drop_in or row.most_step_speedup is None or row.most_call_speedup is None:
        return None
    return max(row.most_step_speedup, row.most_call_speedup)


def _changes(row: Row, names: list[str]) -> list[str]:
    """The changes with their verdicts, or in the first column why there are none."""
    if not row.drop_in:
        return [""] * len(names)
    if row.result is None:
        used = row.tokens in RIGHT and not row.clash
        return ["not timed" if used else "not used", *[""] * (len(names) - 1)]
    found = {
        "a decode step": row.result.step,
        "the call": row.result.call,
        "the call, projected": row.result.projected,
    }
    return [_with_verdict(found.get(name)) for name in names]


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
        notes += _on_the_row(row)
    return (
        notes
        + [note for row in site.rows if row.parts == [BETWEEN] for note in _on_the_loop(site, row)]
        + (_in_any_case(site))
    )


def _on_the_row(row: Row) -> list[str]:
    """What to know of a row: the evidence, what it was timed beside, its set-up, a bound that did not hold."""
    named, said = " + ".join(row.parts), []
    if row.drop_in and row.parts != [BETWEEN]:
        said.append(row.why if row.tokens != "differ" else f"{row.why}, but the whole call gave other tokens")
    if row.reason:
        said.append(f"{row.why}: {row.reason}")
    if row.clash:
        others = ", ".join(row.clash)
        said.append(f"alone it gives the call's tokens, together with {others} it does not, so it is dropped")
    if row.result is not None:
        said += _on_the_result(row.result)
    if row.no_bound:
        said.append(
            f"no bound: {row.no_bound}; other parts may cost less without it, the watched call may have"
            " differed, or it is chance"
        )
    if row.instead:
        said.append(f"or {row.instead}")
    return [f"{named}: {one}." for one in said]


def _on_the_result(result: Result) -> list[str]:
    said = []
    if result.beside:
        said.append(f"its changes are relative to the call with {' and '.join(result.beside)}")
    if result.whole.change is None:
        tokens = plural(result.new_tokens, "new token")
        said.append(
            f"{result.whole.verdict}; processor time of the timed calls of {tokens}, which is not what a caller waits"
            f" for: {_change(result.processor)}"
        )
    call_ns = result.whole.ns
    if result.making_ns > _MAKING * call_ns:
        said.append(
            f"its construction takes {duration(result.making_ns, 2)} in every call,"
            f" {percent(result.making_ns / call_ns)} of the call, and is included;"
            " construct it once before a loop over calls"
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
        said.append("A larger --budget, on a quiet machine, may resolve the rest.")
    return said


def _in_words(result: Result, site: Site) -> str:
    """A result in a sentence: the whole call's change first, and from what it is known."""
    rounds = plural(result.rounds, "round")
    step = "" if result.step is None else f"; a decode step {_change(result.step)}"
    if result.projected is not None:
        rest = site.all_tokens - result.new_tokens
        return (
            f"{_change(result.projected)} of the call's time, projected from its first {result.new_tokens} of"
            f" {site.all_tokens} new tokens (set-up and prefill once, and {plural(rest, 'further step')} like the mean"
            f" of the {result.new_tokens - 1} that were timed){step}, measured in {rounds}"
        )
    if result.new_tokens >= site.all_tokens:
        return f"{_change(result.whole)} of the whole call's time, set-up and prefill included{step}, in {rounds}"
    over = f"the first {result.new_tokens} of its {site.all_tokens} new tokens"
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
    if row.leans:
        said.append(f"{DECODE}: only with the other lines; without them {row.why}.")
    if row.drop_in and site.dispatch_ns:
        said.append(
            f"{DECODE} also saves transformers' inspection of the processors' signatures, which is in their parts:"
            f" {duration(site.dispatch_ns, 2)} a step{', included in its bound' if _at_most(row) else ''}."
        )
    if row.tokens == "equal in distribution":
        said.append(
            f"{DECODE} draws from the same distribution with its own noise: with that noise in both loops the tokens"
            " are the same, but the tokens of a seeded script change. Leave its line out to keep the same text."
        )
    elif row.tokens == "differ":
        said.append(f"{DECODE}: the whole call gave other tokens.")
    return said


def _in_any_case(site: Site) -> list[str]:
    said = []
    if site.ledger_invalid:
        said.append(f"The ledger is invalid, and so are its shares: {site.ledger_invalid}.")
    if site.step_ns is None:
        said.append("No decode step could be seen, so there are no shares.")
    if site.streams:
        said.append(
            "The call's streamer is left out of all timed calls, so a change is a larger share of them than of the call"
            " that streams."
        )
    if site.shared and not site.refused:
        said.append(
            f"{', '.join(site.shared)} could not be copied and is one object in all repeated calls; they gave the"
            " call's tokens twice."
        )
    return said


def lines(site: Site) -> str:
    """What to write into the call, ready to be copied, and apart from it what is unproven; empty without either."""
    top = f", with {' and '.join(f'`{one}`' for one in site.imports)} at the top of the file" if site.imports else ""
    why = f" (no diff: {site.by_hand})" if site.by_hand else ""
    made = []
    if site.lines:
        made += [f"Write into the call at {site.site}{top}{why}:", "", *(f"    {one}" for one in site.lines)]
    apart = unproven(site)
    if apart:
        made += [*[""][: len(made)], f"{UNPROVEN}:", "", *(f"    {one}" for one in apart)]
    return "".join(f"{one}\n" for one in made)


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
    header = ["site", "parts", "ns_per_step", "share", "most_step_speedup", "most_call_speedup", "drop_in", "tokens",
              "new_tokens", *(f"{of}_{name}" for of in ("step", "call", "projected_call") for name in _NUMBERS),
              "making_ns", "written", "why", "reason"]  # fmt: skip
    rows: list[list[object]] = []
    for site in findings.sites:
        rows += [
            [
                site.site,
                " + ".join(row.parts),
                row.ns,
                row.share,
                row.most_step_speedup,
                row.most_call_speedup,
                row.drop_in,
                row.tokens,
                *_numbers(row.result),
                row.written,
                row.why,
                row.reason,
            ]
            for row in site.rows
        ]
        if site.together is not None:
            rows.append([site.site, "all lines together", site.step_ns, None, None, None, " ".join(site.lines), "",
                         *_numbers(site.together), bool(site.lines), "", ""])  # fmt: skip
    return to_csv(header, rows)


_NUMBERS = ("change", "ci_low", "ci_high", "verdict")


def _numbers(result: Result | None) -> list[object]:
    arms = (None, None, None) if result is None else (result.step, result.call, result.projected)
    numbers = [getattr(arm or RelativeChange(), name) for arm in arms for name in _NUMBERS]
    return [result and result.new_tokens, *numbers, result and result.making_ns]


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
    made = {"README.md": readme, "fix.csv": csv(findings).encode()}
    if findings.diff:
        made["fix.diff"] = findings.diff.encode()
    return made
