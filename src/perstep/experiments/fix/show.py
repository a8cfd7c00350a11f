"""What `perstep fix` found, as tables, as lines to write, as CSV and as the files of a run."""

from collections.abc import Mapping

from perstep.experiments.comparison import ArmResult, shown_change
from perstep.experiments.fix.findings import FixFindings, Row, Site
from perstep.experiments.suggest import BETWEEN, DECODE
from perstep.report import Table, to_csv
from perstep.report.format import duration, percent, plural, signed_percent, significant, time_unit
from perstep.report.words import render
from perstep.runs import Manifest

_WIDEST = 58
"""A drop-in is cut in the table behind so many characters; the lines to write have it whole."""


def tables(_manifest: Manifest, findings: FixFindings) -> list[Table]:
    """One table a line that called generate."""
    return [_table(site) for site in findings.sites]


def _table(site: Site) -> Table:
    calls = "" if site.calls == 1 else f", the first of {site.calls} calls"
    unit, size = time_unit([row.ns or 0 for row in site.rows])
    return Table(
        title=f"What could replace the parts of the call at {site.site}{calls}",
        header=[
            "part",
            f"{unit}/step",
            "of the step",
            "at most",
            "what could replace it",
            "tokens",
            "change",
            "verdict",
        ],
        rows=[_cells(row, size) for row in site.rows],
        text_columns=frozenset({0, 4, 5, 7}),
        notes=_notes(site),
    )


def _cells(row: Row, size: float) -> list[str]:
    replaced = row.drop_in if len(row.drop_in) <= _WIDEST else row.drop_in[: _WIDEST - 1] + "…"
    has_bound = row.drop_in and row.most_speedup is not None
    return [
        _name(row),
        "–" if row.ns is None else significant(row.ns / size),
        "–" if row.share is None else percent(row.share),
        f"{row.most_speedup:.2f}×" if has_bound else "–",
        replaced or f"– ({row.why})",
        row.tokens,
        "" if not row.drop_in else "–" if row.change is None else shown_change(row.change),
        "" if not row.drop_in else _verdict(row),
    ]


def _name(row: Row) -> str:
    """The last part of those that go together, and how many these are."""
    return row.parts[-1] + (f" +{len(row.parts) - 1}" if len(row.parts) > 1 else "")


def _verdict(row: Row) -> str:
    """The verdict, or why there is none."""
    if row.change is not None:
        return row.change.verdict
    if row.tokens in ("differ", "not made"):
        return "not used"
    return "not timed alone"


def _notes(site: Site) -> list[str]:
    if site.refused:
        return [f"Nothing was tried: {site.refused}.", *_in_any_case(site)]
    notes = [] if site.together is None else [_together(site, site.together)]
    if not any(row.drop_in and row.tokens in ("the same", "equal in distribution") for row in site.rows):
        notes.append("No drop-in does what this call does.")
    for row in site.rows:
        if row.drop_in and row.tokens != "differ" and row.parts != [BETWEEN]:
            notes.append(f"{' + '.join(row.parts)}: {row.why}.")
        elif row.drop_in and row.parts != [BETWEEN]:
            notes.append(f"{' + '.join(row.parts)}: {row.why}, but the whole call gave other tokens.")
        if row.instead:
            notes.append(f"{' + '.join(row.parts)}: or {row.instead}.")
    return (
        notes
        + [note for row in site.rows if row.parts == [BETWEEN] for note in _on_the_loop(site, row)]
        + (_in_any_case(site))
    )


def _together(site: Site, arm: ArmResult) -> str:
    whole = site.timed_tokens == site.all_tokens
    over = "the whole call" if whole else f"the first {site.timed_tokens} of its {site.all_tokens} new tokens"
    said = (
        f"All lines together: {arm.verdict}, {shown_change(arm)} {_interval(arm)} of the call's time, over {over}, the"
        f" prefill included, in {plural(site.timed_rounds, 'round')}."
    )
    if arm.verdict == "not resolved":
        said += " A larger --budget may tell."
    return said if site.lines else f"{said} Nothing is to be written."


def _on_the_loop(site: Site, row: Row) -> list[str]:
    """What to know of generate's own loop and of what takes its place."""
    said = [f"{BETWEEN}: {', '.join(site.loop)}."] if site.loop else []
    if row.tokens == "not made":
        return [*said, f"{DECODE}: not tried, {row.why}."]
    if row.leans:
        said.append(f"{DECODE}: only with the other lines; without them {row.why}.")
    if row.drop_in and site.dispatch_ns:
        said.append(
            f"{DECODE} also takes transformers' look at the signatures of the processors out of their parts,"
            f" {duration(site.dispatch_ns, 2)} a step, which is in its bound."
        )
    if row.tokens == "equal in distribution":
        said.append(
            f"{DECODE} draws from the same distribution by noise of its own: with that noise in both loops the tokens"
            " are the same, but those of a seeded script change. Leave its line out to keep the very same text."
        )
    elif row.tokens == "differ":
        said.append(f"{DECODE}: the whole call gave other tokens.")
    return said


def _in_any_case(site: Site) -> list[str]:
    said = []
    if site.ledger_invalid:
        said.append(f"The ledger must not be believed, and the shares with it: {site.ledger_invalid}.")
    if site.step_ns is None:
        said.append("No decode step could be seen, so there are no shares.")
    return said


def _interval(arm: ArmResult) -> str:
    if arm.ci_low is None or arm.ci_high is None:
        return "(no interval: too few rounds)"
    return f"[{signed_percent(arm.ci_low)}, {signed_percent(arm.ci_high)}]"


def lines(site: Site) -> str:
    """What to write into the call, ready to be copied; empty where nothing is to be written."""
    if not site.lines:
        return ""
    top = f", with {' and '.join(f'`{one}`' for one in site.imports)} at the top of the file" if site.imports else ""
    why = f" (no diff: {site.by_hand})" if site.by_hand else ""
    return (
        "\n".join([f"Write into the call at {site.site}{top}{why}:", "", *(f"    {one}" for one in site.lines)]) + "\n"
    )


def csv(findings: FixFindings) -> str:
    """A row a part of each line, with nanoseconds and shares as plain numbers."""
    header = ["site", "parts", "ns_per_step", "share", "most_speedup", "drop_in", "tokens", "change", "ci_low",
              "ci_high", "verdict", "written", "why"]  # fmt: skip
    rows: list[list[object]] = []
    for site in findings.sites:
        rows += [
            [
                site.site,
                " + ".join(row.parts),
                row.ns,
                row.share,
                row.most_speedup,
                row.drop_in,
                row.tokens,
                *_numbers(row.change),
                row.written,
                row.why,
            ]
            for row in site.rows
        ]
        if site.together is not None:
            rows.append([site.site, "all lines together", site.step_ns, None, None, " ".join(site.lines), "",
                         *_numbers(site.together), bool(site.lines), ""])  # fmt: skip
    return to_csv(header, rows)


def _numbers(arm: ArmResult | None) -> list[object]:
    return [None, None, None, ""] if arm is None else [arm.change, arm.ci_low, arm.ci_high, arm.verdict]


def files(manifest: Manifest, findings: FixFindings) -> Mapping[str, bytes]:
    """`README.md`, `fix.csv`, and `fix.diff` where there is one."""
    readme = render(
        "fix.md",
        manifest=manifest,
        findings=findings,
        sites=list(zip(findings.sites, tables(manifest, findings), strict=True)),
        interval=_interval,
        change=shown_change,
    )
    made = {"README.md": readme, "fix.csv": csv(findings).encode()}
    if findings.diff:
        made["fix.diff"] = findings.diff.encode()
    return made
