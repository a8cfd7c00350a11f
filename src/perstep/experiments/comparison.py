"""What a comparison found, and how it is shown: the changes of the arms with their verdicts."""

from collections.abc import Mapping

import msgspec

from perstep.machine import NoiseSummary
from perstep.report import Table, to_csv, to_text
from perstep.report.format import plural, signed_percent, significant, time_unit


class ProcessorTime(msgspec.Struct, frozen=True, kw_only=True):
    """The processor time of an arm's calls, all threads (of a command: all its processes), and how it changed.

    It is not the time that a caller waits: it leaves out waiting of every kind.

    Attributes:
        ns_per_call: median over rounds.
        change: relative to the reference's processor time; None for the reference itself, or without a verdict.
        ci_low: lower end of its 95 % interval (Bonferroni over the arms), or None.
        ci_high: upper end.
        mde: the smallest change that these rounds would have resolved in 80 % of tries, or None.
        verdict: as in `ArmResult`, read off this interval; `faster` and `slower` only where all of it is beyond ±T.
        reason: why, in words.
    """

    ns_per_call: float
    change: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    mde: float | None = None
    verdict: str = ""
    reason: str = ""


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """One arm against the reference.

    Attributes:
        name: of the arm.
        ns_per_call: median over rounds of the wall time.
        calls_per_block: timed calls in a turn.
        processor: the processor time of the same calls.
        change: relative to the reference, 0.031 is 3.1 % slower; None for the reference itself or if invalid.
        ci_low: lower end of its 95 % interval (Bonferroni over the arms), or None.
        ci_high: upper end.
        mde: the smallest change that these rounds would have resolved in 80 % of tries, or None.
        verdict: `faster`, `slower`, `same (within ±T)`, `not resolved`, `not resolved (the machine was busy ...)`,
            `invalid (reason)`; empty for the reference.
        reason: why, in words.
        merged_by: adjacent rounds joined because they resembled each other.
        ties: rounds in which both took exactly the same time.
    """

    name: str
    ns_per_call: float
    calls_per_block: int
    processor: ProcessorTime
    change: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    mde: float | None = None
    verdict: str = ""
    reason: str = ""
    merged_by: int = 1
    ties: int = 0


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison found; `comparison["new"]` is one arm's result.

    Attributes:
        reference: name of the arm that the others are compared with.
        rounds: balanced rounds, the unit of replication.
        replicates: what differs from round to round: `rounds of one process`, or `processes` where each round has new
            ones. What does not differ is not in the intervals.
        arms: by name, the reference first.
        busy: why wall time gives no verdict, or empty.
        noise: what disturbed the rounds; those hit are kept.
        invalid: why the numbers must not be believed, or empty.
        unresolved: what could not be resolved, or empty.
        notes: what a reader must know.
    """

    reference: str
    rounds: int
    replicates: str
    arms: dict[str, ArmResult]
    noise: NoiseSummary
    busy: str = ""
    invalid: str = ""
    unresolved: str = ""
    notes: list[str] = []

    def __getitem__(self, name: str) -> ArmResult:
        return self.arms[name]

    def __str__(self) -> str:
        return "\n\n".join(to_text(table) for table in comparison_tables(self))


def comparison_tables(found: Comparison) -> list[Table]:
    """One row an arm; where the machine was busy, a second table with the processor times."""
    noise = found.noise
    hit = f", {noise.rounds_hit} of them disturbed ({', '.join(noise.by_kind)}) and kept" if noise.rounds_hit else ""
    turns = {"processes": ", each with new processes that took turns"}.get(
        found.replicates, " in one process, in which the arms took turns"
    )
    wall = {arm.name: arm for arm in found.arms.values()}
    title = plural(found.rounds, "round") + turns + hit
    tables = [_table(title, "", wall, found, notes=found.notes)]
    if found.busy:
        processor = {arm.name: arm.processor for arm in found.arms.values()}
        notes = ["Processor time leaves out all waiting: it is not the time that a caller waits."]
        tables.append(_table("Processor time of the same rounds", "processor ", processor, found, notes=notes))
    return tables


def _table(
    title: str, time: str, shown: Mapping[str, ArmResult | ProcessorTime], found: Comparison, *, notes: list[str]
) -> Table:
    unit, size = time_unit(arm.ns_per_call for arm in shown.values())
    rows = [
        [
            name,
            significant(arm.ns_per_call / size, 4),
            "reference" if name == found.reference else shown_change(arm),
            "" if name == found.reference else _interval(arm),
            arm.verdict,
            "" if arm.mde is None else f"{100 * arm.mde:.2g} %",
        ]
        for name, arm in shown.items()
    ]
    reasons = [f"{name}: {arm.reason}" for name, arm in shown.items() if arm.reason and arm.reason not in arm.verdict]
    return Table(
        title=title,
        header=["arm", f"{time}{unit}/call", "change", "95 % interval", "verdict", "detectable"],
        rows=rows,
        text_columns=frozenset({0, 4}),
        notes=[*reasons, *notes],
    )


def shown_change(arm: ArmResult | ProcessorTime) -> str:
    """`+3.10 %`, or a dash where there is none."""
    return "–" if arm.change is None else signed_percent(arm.change, 2)


def _interval(arm: ArmResult | ProcessorTime) -> str:
    if arm.ci_low is None or arm.ci_high is None:
        return "–"
    return f"[{signed_percent(arm.ci_low, 2)}, {signed_percent(arm.ci_high, 2)}]"


def csv(findings: Comparison) -> str:
    """A row an arm: its wall time, then its processor time."""
    columns = ["ns_per_call", "change", "ci_low", "ci_high", "mde", "verdict"]
    rows: list[list[object]] = [
        [arm.name, *(getattr(times, column) for times in (arm, arm.processor) for column in columns)]
        for arm in findings.arms.values()
    ]
    return to_csv(["arm", *columns, *(f"processor_{column}" for column in columns)], rows)
