"""What a run of `fix` found: a pure function of its samples, from which everything that is shown is drawn.

Each part of a line's ledger has a row, with what could replace it or why nothing can; a bound is the part itself.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from perstep.errors import InputError
from perstep.experiments import compare
from perstep.experiments.comparison import ArmResult
from perstep.experiments.fix.samples import Offered, Patch, Round, Sample, Trial, Tried, Watched, Written
from perstep.experiments.fix.trial import FIXED
from perstep.experiments.suggest import BETWEEN, DECODE, bound, loop_parts, why_nothing
from perstep.experiments.watch import by_site, call_ledger
from perstep.machine import NoiseSummary, summarise_noise
from perstep.measure import Ledger
from perstep.runs import Manifest
from perstep.stats import Verdict
from perstep.targets.transformers.words import DECODE as DECODE_STEP


class Row(msgspec.Struct, kw_only=True):
    """A part of the ledger, or several that go together, and what could take their place.

    Attributes:
        parts: names in the ledger; those of generate's own loop all together.
        drop_in: what could take their place, as it is written; empty where nothing can.
        ns: of each step; None where the ledger does not have the part.
        share: of the step.
        most_speedup: what replacing it can win at most, as the step before over the step after.
        tokens: what became of the tokens; empty where nothing was tried.
        why: why it is the same, or why nothing takes its place.
        instead: what dropping it would lose, and what a check at the end costs.
        change: the call with it alone against the call as it is, or None where that was not measured.
        new_tokens: of the timed calls.
        rounds: behind the change.
        written: whether it is among the lines to write.
        leans: it works beside the other lines alone.
    """

    parts: list[str]
    drop_in: str = ""
    ns: float | None = None
    share: float | None = None
    most_speedup: float | None = None
    tokens: str = ""
    why: str = ""
    instead: str = ""
    change: ArmResult | None = None
    new_tokens: int = 0
    rounds: int = 0
    written: bool = False
    leans: bool = False


class Site(msgspec.Struct, kw_only=True):
    """What could replace the parts of the calls from one line.

    Attributes:
        site: the line.
        model: its class.
        calls: made from it.
        refused: why nothing was tried, or empty.
        step_ns: of the ledger, with its marks; None where no step was seen.
        ledger_invalid: why the shares must not be believed, or empty.
        loop: the parts that generate's own loop has in the ledger.
        dispatch_ns: of each step, what transformers' look at the signatures of the processors takes.
        rows: one a part, the largest first.
        together: all lines together against the call as it is; None where they were not timed.
        timed_tokens: new tokens of each of these calls.
        timed_rounds: behind it.
        all_tokens: of the whole call.
        sampled: tokens are drawn.
        lines: what to write into the call, ready to be copied.
        imports: what to have at the top of the file.
        by_hand: why there is no diff of this call, or empty.
    """

    site: str
    model: str
    calls: int
    refused: str
    step_ns: float | None
    ledger_invalid: str
    loop: list[str] = []
    dispatch_ns: float = 0.0
    rows: list[Row] = []
    together: ArmResult | None = None
    timed_tokens: int = 0
    timed_rounds: int = 0
    all_tokens: int = 0
    sampled: bool = False
    lines: list[str] = []
    imports: list[str] = []
    by_hand: str = ""


class FixFindings(msgspec.Struct, kw_only=True):
    """`results.json`. Its schema is `perstep/data/fix_results.schema.json`.

    Attributes:
        sites: the lines that called generate, in the order of their first calls.
        diff: of all files that change.
        noise: what disturbed the rounds; those hit are kept.
        unresolved: what could not be resolved, or empty.
        invalid: why the numbers must not be believed, or empty.
    """

    sites: list[Site]
    diff: str
    noise: NoiseSummary
    unresolved: str
    invalid: str


def results_schema() -> bytes:
    """The published schema of `results.json`, as it is stored in `perstep.data`."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(FixFindings), order="sorted"), indent=1) + b"\n"


class _Held:
    """The samples of one line."""

    def __init__(self) -> None:
        self.offered = Offered(site="", calls=0)
        self.trials: list[tuple[Trial, list[compare.Sample]]] = []
        self.written = Written(site="", chosen=[])


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> FixFindings:
    """What could replace what, and what was won: a pure function of manifest and samples.

    Raises:
        InputError: there are no samples.
        InvalidMeasurement: a step's parts do not add up to it.
    """
    if not samples:
        raise InputError("the run holds no generate call; fix a script that makes one")
    watched = [sample.call for sample in samples if isinstance(sample, Watched)]
    by_line: dict[str, list[Any]] = {}
    for name, calls in by_site(watched).items():
        by_line.setdefault(name.split(" (")[0], calls)
    held = _by_line(samples)
    sites = []
    for line, found in held.items():
        calls = by_line.get(line, [])
        ledger = call_ledger(DECODE_STEP, calls, manifest.conditions["mark_ns"]) if calls else None
        sites.append(_site(found, ledger, calls[0].model if calls else ""))
    rounds = [made for found in held.values() for _, kept in found.trials for made in kept]
    open_ = [site.site for site in sites if site.together and site.together.verdict == Verdict.NOT_RESOLVED]
    return FixFindings(
        sites=sites,
        diff=next((sample.diff for sample in reversed(samples) if isinstance(sample, Patch)), ""),
        noise=summarise_noise([*(call.noise for call in watched), *(made.noise for made in rounds)]),
        unresolved=f"too few rounds to tell what is won at {', '.join(open_)}; try a larger --budget" if open_ else "",
        invalid="; ".join(
            f"{site.site}: {site.together.reason}"
            for site in sites
            if site.together and site.together.verdict.startswith(Verdict.INVALID)
        ),
    )


def _by_line(samples: Sequence[Sample]) -> dict[str, _Held]:
    held: dict[str, _Held] = {}
    for sample in samples:
        if isinstance(sample, Offered):
            held.setdefault(sample.site, _Held()).offered = sample
        elif isinstance(sample, Trial):
            held[sample.site].trials.append((sample, []))
        elif isinstance(sample, Round):
            held[sample.site].trials[-1][1].append(sample.round)
        elif isinstance(sample, Written):
            held[sample.site].written = sample
    return held


def _site(held: _Held, ledger: Ledger | None, model: str) -> Site:
    offered, written = held.offered, held.written
    invalid = "" if ledger is None else ledger.invalid
    loop = () if ledger is None else loop_parts(ledger)
    site = Site(
        site=offered.site,
        model=model,
        calls=offered.calls,
        refused=offered.refused,
        step_ns=None if ledger is None else ledger.step_ns,
        ledger_invalid=invalid,
        loop=list(loop),
        dispatch_ns=offered.dispatch_ns,
        rows=[_row(tried, ledger, loop, offered.dispatch_ns) for tried in offered.tried],
        all_tokens=offered.all_tokens,
        sampled=offered.sampled,
        lines=written.lines,
        imports=written.imports,
        by_hand=written.by_hand,
    )
    for place in written.chosen:
        site.rows[place].written = True
    for trial, rounds in held.trials:
        if rounds:
            _add_trial(site, trial, rounds, together=trial.offers == written.chosen or len(trial.offers) > 1)
    if ledger is not None:
        site.rows += _others(ledger, site.rows, loop, offered)
    site.rows.sort(key=lambda row: -(row.share or 0))
    return site


def _add_trial(site: Site, trial: Trial, rounds: list[compare.Sample], *, together: bool) -> None:
    made = Manifest(experiment="compare", plan={}, conditions=trial.conditions)
    result = compare.analyse(made, rounds).arms[FIXED]
    if together:
        site.together, site.timed_tokens, site.timed_rounds = result, trial.tokens, len(rounds)
    if len(trial.offers) == 1:
        row = site.rows[trial.offers[0]]
        row.change, row.new_tokens, row.rounds = result, trial.tokens, len(rounds)


def _row(tried: Tried, ledger: Ledger | None, loop: tuple[str, ...], dispatch_ns: float) -> Row:
    row = Row(
        parts=tried.parts,
        drop_in=tried.drop_in,
        tokens=tried.tokens,
        why=tried.refused or tried.evidence,
        instead=tried.instead,
        leans=tried.leans,
    )
    if ledger is not None:
        is_loop = tried.parts == [BETWEEN]
        _cost(row, ledger, loop if is_loop else tuple(tried.parts), dispatch_ns if is_loop else 0.0)
    return row


def _cost(row: Row, ledger: Ledger, parts: tuple[str, ...], more_ns: float = 0.0) -> None:
    """Write into a row what its parts cost; nothing where the ledger has none of them."""
    if not any(name in ledger.parts for name in parts):
        return
    row.ns, row.share, _ = bound(ledger, parts)
    row.most_speedup = 1 / max(1 - row.share - more_ns / ledger.step_ns, 1e-9)


def _others(ledger: Ledger, rows: list[Row], loop: tuple[str, ...], offered: Offered) -> list[Row]:
    """Rows for the parts that nothing was offered for."""
    answered = {part for row in rows for part in row.parts}
    made = []
    if loop and BETWEEN not in answered:
        why = "perstep.fast.decode has its place already" if offered.loop_is_fast else DECODE + ", not tried"
        made.append(Row(parts=[BETWEEN], why=why))
        _cost(made[-1], ledger, loop)
    for name in ledger.parts:
        if name not in answered and name not in loop:
            made.append(Row(parts=[name], why=why_nothing(name), instead=offered.instead.get(name, "")))
            _cost(made[-1], ledger, (name,))
    return made


def headline(site: Site) -> str:
    """What became of one line, in a few words."""
    arm: ArmResult | None = site.together
    if site.refused:
        return f"{site.site}: nothing was tried"
    if arm is None or arm.change is None:
        return f"{site.site}: nothing to replace"
    return f"{site.site}: {arm.verdict} {100 * arm.change:+.1f} %"


def summary(findings: FixFindings) -> dict[str, Any]:
    """The headline for `perstep list`."""
    if not findings.sites:
        return {"headline": "no line was tried", "sites": 0}
    return {
        "headline": "; ".join(headline(site) for site in findings.sites),
        "sites": len(findings.sites),
        "written": {site.site: site.lines for site in findings.sites if site.lines},
    }
