"""What a comparison found, and how it is shown: the changes of the arms with their verdicts."""

import msgspec

from perstep.machine import NoiseSummary
from perstep.report import Table, to_csv, to_text
from perstep.report.format import plural, signed_percent, significant, time_unit


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """One arm against the reference.

    Attributes:
        name: of the arm.
        ns_per_call: median over rounds.
        calls_per_block: timed calls in a turn.
        change: relative to the reference, 0.031 is 3.1 % slower; None for the reference itself or if invalid.
        ci_low: lower end of its 95 % interval (Bonferroni over the arms), or None.
        ci_high: upper end.
        mde: the smallest change that these rounds would have resolved in 80 % of tries, or None.
        verdict: `faster`, `slower`, `same (within ±T)`, `not resolved`, `invalid (reason)`; empty for the reference.
        reason: why, in words.
        merged_by: adjacent rounds joined because they resembled each other.
        ties: rounds in which both took exactly the same time.
    """

    name: str
    ns_per_call: float
    calls_per_block: int
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
        arms: by name, the reference first.
        noise: what disturbed the rounds; those hit are kept.
        invalid: why the numbers must not be believed, or empty.
        unresolved: what could not be resolved, or empty.
        notes: what a reader must know.
    """

    reference: str
    rounds: int
    arms: dict[str, ArmResult]
    noise: NoiseSummary
    invalid: str = ""
    unresolved: str = ""
    notes: list[str] = []

    def __getitem__(self, name: str) -> ArmResult:
        return self.arms[name]

    def __str__(self) -> str:
        return to_text(comparison_table(self))


def comparison_table(found: Comparison) -> Table:
    """One row an arm."""
    unit, size = time_unit(arm.ns_per_call for arm in found.arms.values())
    rows = [
        [
            arm.name,
            significant(arm.ns_per_call / size, 4),
            "reference" if arm.name == found.reference else shown_change(arm),
            "" if arm.name == found.reference else _interval(arm),
            arm.verdict,
            "" if arm.mde is None else f"{100 * arm.mde:.2g} %",
        ]
        for arm in found.arms.values()
    ]
    noise = found.noise
    hit = f", {noise.rounds_hit} of them disturbed ({', '.join(noise.by_kind)}) and kept" if noise.rounds_hit else ""
    return Table(
        title=f"{plural(found.rounds, 'round')} in which the arms took turns{hit}",
        header=["arm", f"{unit}/call", "change", "95 % interval", "verdict", "detectable"],
        rows=rows,
        text_columns=frozenset({0, 4}),
        notes=[*(f"{arm.name}: {arm.reason}" for arm in found.arms.values() if arm.reason), *found.notes],
    )


def shown_change(arm: ArmResult) -> str:
    """`+3.10 %`, or a dash where there is none."""
    return "–" if arm.change is None else signed_percent(arm.change, 2)


def _interval(arm: ArmResult) -> str:
    if arm.ci_low is None or arm.ci_high is None:
        return "–"
    return f"[{signed_percent(arm.ci_low, 2)}, {signed_percent(arm.ci_high, 2)}]"


def csv(findings: Comparison) -> str:
    """A row an arm."""
    rows: list[list[object]] = [
        [a.name, a.ns_per_call, a.change, a.ci_low, a.ci_high, a.mde, a.verdict] for a in findings.arms.values()
    ]
    return to_csv(["arm", "ns_per_call", "change", "ci_low", "ci_high", "mde", "verdict"], rows)
