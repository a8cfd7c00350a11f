"""What a run of `fix` found: a pure function of its samples, from which everything that is shown is drawn.

Each part of a line's ledger has a row, with what could replace it or why nothing can. A bound is the part itself, and
is withdrawn where more than that was measured.
"""

from collections.abc import Sequence

import msgspec

from perstep._json import Json
from perstep.errors import InputError
from perstep.experiments.conditions import typed
from perstep.experiments.device.stream import DeviceLedger
from perstep.fixing.changes import Changes, changes
from perstep.fixing.draft import DRAFTED
from perstep.fixing.samples import (
    RIGHT,
    Clash,
    Conditions,
    Offered,
    Patch,
    Round,
    Sample,
    Trial,
    Tried,
    Watched,
    Written,
)
from perstep.fixing.suggest import BETWEEN, DECODE, at_most, bound, graph_at_most, loop_parts, why_nothing
from perstep.machine import NoiseSummary, summarise_noise
from perstep.measure import Ledger
from perstep.report.change import TimeChange
from perstep.runs import Manifest
from perstep.stats import Verdict
from perstep.targets.transformers.words import DECODE as DECODE_STEP
from perstep.targets.transformers.words import PREFILL, STREAM
from perstep.watching.findings import call_ledger, device_ledger
from perstep.watching.samples import Sample as WatchedCall
from perstep.watching.samples import by_site


class Result(msgspec.Struct, kw_only=True):
    """What came of timing one drop-in, or several together.

    Attributes:
        drop_ins: what the second arm had more than the first.
        beside: what both arms had.
        step: change of a decode step, measured; None where no step could be told apart.
        call: of the whole call, measured; None where it was timed over its first tokens alone.
        projected: of the whole call, derived: what comes once, and a mean step for each further token. None where it
            was measured.
        processor: processor time of the timed calls, whole: not what a caller waits for.
        making_ns: making the drop-ins in each call, which is in `call` and `projected`.
        new_tokens: of the timed calls.
        rounds: how many.
    """

    drop_ins: list[str]
    beside: list[str] = []
    step: TimeChange | None
    call: TimeChange | None
    projected: TimeChange | None
    processor: TimeChange
    making_ns: float
    new_tokens: int
    rounds: int

    @property
    def whole(self) -> TimeChange:
        """Of the whole call, measured or projected."""
        change = self.call or self.projected
        assert change is not None  # noqa: S101 - there is always one of them
        return change


class Row(msgspec.Struct, kw_only=True):
    """A part of the ledger, or several that go together, and what could take their place.

    Attributes:
        parts: names in the ledger; those of generate's own loop all together.
        drop_in: what could take their place, as it is written; empty where nothing can.
        ns: of each step; None where the ledger does not have the part.
        share: of the step.
        most_step_speedup: what replacing it can win of a decode step at most, as the step before over the step after;
            None without a bound.
        most_call_speedup: likewise of the whole call, set-up included.
        no_bound: why there is none, where one was withdrawn; or empty.
        tokens: what became of the tokens; empty where nothing was tried.
        why: why it is the same, or why nothing takes its place.
        reason: where nothing is known to take their place, what was tried and found; or empty.
        clash: beside which drop-ins it gives other tokens, though alone it gives the call's; it is not used then.
        instead: what dropping it would lose, and what a check at the end costs.
        result: what came of timing it, or None where that was not done.
        written: whether it is among the lines to write.
        leans: it works beside the other lines alone.
        forwards: that the call makes with a draft, where leaving the draft out is what was tried; else 0.
    """

    parts: list[str]
    drop_in: str = ""
    ns: float | None = None
    share: float | None = None
    most_step_speedup: float | None = None
    most_call_speedup: float | None = None
    no_bound: str = ""
    tokens: str = ""
    why: str = ""
    reason: str = ""
    clash: list[str] = []
    instead: str = ""
    result: Result | None = None
    written: bool = False
    leans: bool = False
    forwards: int = 0

    @property
    def unproven(self) -> bool:
        """It gives the right tokens, and is not among the lines to write."""
        return bool(self.drop_in) and self.tokens in RIGHT and not self.clash and not self.written


class Site(msgspec.Struct, kw_only=True):
    """What could replace the parts of the calls from one line.

    Attributes:
        site: the line.
        model: its class.
        calls: made from it.
        refused: why nothing was tried, or empty.
        step_ns: of the ledger, with its marks; None where no step was seen.
        ledger_invalid: why the shares are invalid, or empty.
        loop: the parts that generate's own loop has in the ledger.
        dispatch_ns: of each step, what transformers' look at the signatures of the processors takes.
        rows: one a part, the largest first.
        together: all lines to write together against the call as it is; None where nothing is to be written.
        set_aside: several drop-ins that were timed together and are not what is to be written; or None.
        shared: what could not be copied, and was the same object in every repeat of the call.
        streams: the call has a streamer, which its repeats had not.
        all_tokens: of the whole call.
        sampled: tokens are drawn.
        beams: of each prompt.
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
    together: Result | None = None
    set_aside: Result | None = None
    shared: list[str] = []
    streams: bool = False
    all_tokens: int = 0
    sampled: bool = False
    beams: int = 1
    lines: list[str] = []
    imports: list[str] = []
    by_hand: str = ""


class FixFindings(msgspec.Struct, kw_only=True):
    """`results.json`. Its schema is `perstep/data/fix_results.schema.json`.

    Attributes:
        sites: the lines that called generate, in the order of their first calls.
        diff: of all files that change.
        diff_folder: where it is to be applied, if not where the script was run; else empty.
        noise: what disturbed the rounds; those hit are kept.
        unresolved: what could not be resolved, or empty.
        invalid: why the numbers are invalid, or empty.
    """

    sites: list[Site]
    diff: str
    diff_folder: str = ""
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
        self.clashes: list[Clash] = []
        self.trials: list[tuple[Trial, list[Round]]] = []
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
    by_line: dict[str, list[WatchedCall]] = {}
    for calls in by_site(watched).values():  # of several models, those of the line's first
        by_line.setdefault(calls[0].site, calls)
    mark_ns = typed(manifest, Conditions).mark_ns
    records = _by_line(samples)
    sites = []
    for line, record in records.items():
        calls = by_line.get(line, [])
        decode, prefill = (call_ledger(kind, calls, mark_ns) if calls else None for kind in _KINDS)
        device = device_ledger(DECODE_STEP, calls) if calls else None
        sites.append(_site(record, decode, prefill, model=calls[0].model if calls else "", device=device))
    rounds = [one.round for record in records.values() for _, kept in record.trials for one in kept]
    patch = next((sample for sample in reversed(samples) if isinstance(sample, Patch)), Patch(diff=""))
    open_ = [site.site for site in sites if any(_is_open(row) for row in site.rows)]
    return FixFindings(
        sites=sites,
        diff=patch.diff,
        diff_folder=patch.folder,
        noise=summarise_noise([*(call.noise for call in watched), *(one.noise for one in rounds)]),
        unresolved=f"the time saved is not resolved at {', '.join(open_)}; try a larger --budget on a quiet machine"
        if open_
        else "",
        invalid="; ".join(
            f"{site.site}: {result.whole.reason}"
            for site in sites
            for result in [row.result for row in site.rows] + [site.together]
            if result is not None and result.whole.verdict.startswith(Verdict.INVALID)
        ),
    )


_KINDS = (DECODE_STEP, PREFILL)
_ROUNDING = 1e-9  # a bound that is met is not beaten


def _is_open(row: Row) -> bool:
    return row.result is not None and not row.result.whole.resolved


def _by_line(samples: Sequence[Sample]) -> dict[str, _Held]:
    by_line: dict[str, _Held] = {}
    for sample in samples:
        if isinstance(sample, Offered):
            by_line.setdefault(sample.site, _Held()).offered = sample
        elif isinstance(sample, Clash):
            by_line[sample.site].clashes.append(sample)
        elif isinstance(sample, Trial):
            by_line[sample.site].trials.append((sample, []))
        elif isinstance(sample, Round):
            by_line[sample.site].trials[-1][1].append(sample)
        elif isinstance(sample, Written):
            by_line[sample.site].written = sample
    return by_line


def _site(
    record: _Held, decode: Ledger | None, prefill: Ledger | None, *, model: str, device: DeviceLedger | None = None
) -> Site:
    offered, written = record.offered, record.written
    loop = () if decode is None else loop_parts(decode)
    site = Site(
        site=offered.site,
        model=model,
        calls=offered.calls,
        refused=offered.refused,
        step_ns=None if decode is None else decode.step_ns,
        ledger_invalid="" if decode is None else decode.invalid,
        loop=list(loop),
        dispatch_ns=offered.dispatch_ns,
        rows=[_row(tried) for tried in offered.tried],
        all_tokens=offered.all_tokens,
        sampled=offered.sampled,
        beams=offered.beams,
        shared=offered.shared,
        streams=offered.streams,
        lines=written.lines,
        imports=written.imports,
        by_hand=written.by_hand,
    )
    for place in written.chosen:
        site.rows[place].written = True
    for clash in record.clashes:
        site.rows[clash.offer].clash = [site.rows[place].drop_in for place in clash.beside]
    beside: dict[int, list[int]] = {}
    for trial, rounds in record.trials:
        if rounds:
            _add_trial(site, trial, rounds, written.chosen)
            beside |= {place: trial.beside for place in trial.offers if len(trial.offers) == 1}
    if decode is not None:
        for place, row in enumerate(site.rows):
            gone = [part for other in beside.get(place, []) for part in _ledger_parts(site.rows[other], loop)]
            _cost(row, decode, loop)
            if offered.tried[place].captured:
                _bound_of_graph(row, decode, device)
            elif row.ns is not None and not decode.invalid and row.parts != [DRAFTED]:
                _bound(row, offered, place, decode, prefill, loop, tuple(gone))
        site.rows += _others(decode, site.rows, loop, offered)
    site.rows.sort(key=lambda row: -(row.share or 0))
    return site


def _add_trial(site: Site, trial: Trial, rounds: list[Round], chosen: list[int]) -> None:
    measured = changes(trial.conditions, rounds, trial.tokens, site.all_tokens)
    result = _result(measured, trial, len(rounds), [row.drop_in for row in site.rows])
    if len(trial.offers) == 1:
        site.rows[trial.offers[0]].result = result
    if trial.offers == chosen and not trial.beside:
        site.together = result
    elif len(trial.offers) > 1:
        site.set_aside = result


def _result(measured: Changes, trial: Trial, rounds: int, drop_ins: list[str]) -> Result:
    return Result(
        drop_ins=[drop_ins[place] for place in trial.offers],
        beside=[drop_ins[place] for place in trial.beside],
        step=measured.step,
        call=measured.call,
        projected=measured.projected,
        processor=measured.processor,
        making_ns=measured.making_ns,
        new_tokens=trial.tokens,
        rounds=rounds,
    )


def _row(tried: Tried) -> Row:
    return Row(
        parts=tried.parts,
        drop_in=tried.drop_in,
        tokens=tried.tokens,
        why=tried.refused or tried.evidence,
        instead=tried.instead,
        leans=tried.leans,
        forwards=tried.forwards,
    )


def _ledger_parts(row: Row, loop: tuple[str, ...]) -> tuple[str, ...]:
    return loop if row.parts == [BETWEEN] else tuple(row.parts)


def _cost(row: Row, ledger: Ledger, loop: tuple[str, ...]) -> None:
    """Write into a row what its parts cost; nothing where the ledger has none of them."""
    parts = _ledger_parts(row, loop)
    if any(name in ledger.parts for name in parts):
        row.ns, row.share, _ = bound(ledger, parts)


def _bound_of_graph(row: Row, decode: Ledger, device: DeviceLedger | None) -> None:
    """A graph saves launches in every part, so its bound is the device's wait for the host."""
    if device is None or decode.invalid:
        row.no_bound = "a captured graph saves launches in every part, and the device's wait for the host is not known"
    else:
        row.most_step_speedup = row.most_call_speedup = graph_at_most(decode, device)


def _bound(
    row: Row,
    offered: Offered,
    place: int,
    decode: Ledger,
    prefill: Ledger | None,
    loop: tuple[str, ...],
    gone: tuple[str, ...],
) -> None:
    """Write into a row what replacing it can win at most, or why that is no bound."""
    streams = tuple(name for name in decode.parts if name.startswith(STREAM)) if offered.streams else ()
    step, call = at_most(
        decode,
        prefill,
        offered.all_tokens,
        _ledger_parts(row, loop),
        gone=(*gone, *streams),
        more_ns=offered.dispatch_ns if row.parts == [BETWEEN] else 0.0,
        by_generate=offered.tried[place].by_generate,
    )
    result = row.result
    shown = [] if result is None else [("a decode step", step, result.step), ("the call", call, result.whole)]
    for what, most, arm in shown:
        if most is not None and arm is not None and arm.change is not None and arm.change < 1 / most - 1 - _ROUNDING:
            row.no_bound = (
                f"the change of {what}, {arm.percent(2)}, exceeds the {most:.2f}× that its part of the ledger allows"
            )
    if not row.no_bound:
        row.most_step_speedup, row.most_call_speedup = step, call


def _others(ledger: Ledger, rows: list[Row], loop: tuple[str, ...], offered: Offered) -> list[Row]:
    """Rows for the parts that nothing was offered for."""
    answered = {part for row in rows for part in row.parts}
    others = []
    if loop and BETWEEN not in answered:
        why = "perstep.fast.decode is used already" if offered.loop_is_fast else DECODE + ", not tried"
        others.append(Row(parts=[BETWEEN], why=why))
    for name in ledger.parts:
        if name not in answered and name not in loop:
            reason, advice = offered.reasons.get(name, ""), offered.instead.get(name, "")
            others.append(Row(parts=[name], why=why_nothing(name), reason=reason, instead=advice))
    for row in others:
        _cost(row, ledger, loop)
    return others


def headline(site: Site) -> str:
    """What became of one line, in a few words."""
    if site.refused:
        return f"{site.site}: nothing was tried"
    if site.together is None or site.together.whole.change is None:
        unproven = any(row.unproven for row in site.rows)
        return f"{site.site}: {'nothing was proven faster' if unproven else 'nothing to replace'}"
    arm = site.together.whole
    projected = "" if site.together.call else ", projected"
    return f"{site.site}: {arm.verdict} {arm.percent()}{projected}"


def summary(findings: FixFindings) -> dict[str, Json]:
    """The headline for `perstep list`."""
    if not findings.sites:
        return {"headline": "no line was tried", "sites": 0}
    return {
        "headline": "; ".join(headline(site) for site in findings.sites),
        "sites": len(findings.sites),
        "written": {site.site: site.lines for site in findings.sites if site.lines},
    }
