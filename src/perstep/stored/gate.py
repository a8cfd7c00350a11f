"""`gate`: whether a stored run is confidently slower than another, beyond a limit set for each part.

Law: only an interval that lies wholly above its limit fails a gate, only one that lies wholly at or below it passes
it; all else is not resolved, and neither fails nor counts as passed. The intervals are those of `between.py`, for the
parts with a limit alone, and hold together.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from perstep.errors import InputError
from perstep.report import Column, Table
from perstep.report.format import percent
from perstep.report.table import within
from perstep.stored.between import PartChange, Run, SpreadOfRuns, StoredComparison, compare_runs
from perstep.stored.show import comparison_notes, part_columns

DEFAULT_LIMITS = ("step:5%",)
_LIMIT = re.compile(r"(?P<part>.+):(?P<percent>[0-9]+(\.[0-9]+)?) ?%")


class Outcome(StrEnum):
    """What a gate says about a part, and about all of them: the worst of these."""

    PASSED = "passed"
    NOT_RESOLVED = "not resolved"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Limit:
    """How much slower a part may become: 0.05 is 5 %."""

    part: str
    share: float


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A part, its limit, and what was found."""

    limit: float
    outcome: str
    change: PartChange


class GateFindings(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate found.

    Attributes:
        outcome: `FAILED` if any part did, else `not resolved` if any was not, else `passed`.
        conclusion: one line for a person.
        parts: in the order of the limits.
        comparison: what it rests on.
    """

    outcome: str
    conclusion: str
    parts: list[Judged]
    comparison: StoredComparison


def parse_limits(texts: Sequence[str]) -> list[Limit]:
    """`step:5%`, `mask.apply:20%`; the limits of `DEFAULT_LIMITS` where there are none.

    Raises:
        InputError: one is not written so, or a part has two.
    """
    limits = []
    for text in texts or DEFAULT_LIMITS:
        match = _LIMIT.fullmatch(text.strip())
        if match is None:
            raise InputError(
                f"--fail-on {text!r} is not a limit; write PART:PERCENT, such as step:5% or mask.apply:20%"
            )
        limits.append(Limit(match["part"].strip(), float(match["percent"]) / 100))
    parts = [limit.part for limit in limits]
    twice = [part for part in parts if parts.count(part) > 1]
    if twice:
        raise InputError(f"--fail-on gives {twice[0]} more than one limit; give each part one")
    return limits


def judge(
    ref: Run, new: Run, spread: SpreadOfRuns, limits: Sequence[Limit], *, allow_different: bool = False
) -> GateFindings:
    """Compare two runs and hold every limited part against its limit.

    Raises:
        InputError: the runs did not do the same work, or a part is in neither of them.
    """
    comparison = compare_runs(ref, new, spread, parts=[limit.part for limit in limits], allow_different=allow_different)
    rows = {row.part: row for row in comparison.parts}
    parts = [
        Judged(limit=limit.share, outcome=str(_outcome(rows[limit.part], limit)), change=rows[limit.part])
        for limit in limits
    ]
    outcomes = {part.outcome for part in parts}
    outcome = next(o for o in (Outcome.FAILED, Outcome.NOT_RESOLVED, Outcome.PASSED) if o in outcomes)
    return GateFindings(
        outcome=str(outcome), conclusion=_conclusion(outcome, parts), parts=parts, comparison=comparison
    )


def _outcome(row: PartChange, limit: Limit) -> Outcome:
    if row.ci_low is None or row.ci_high is None or not row.trusted:
        return Outcome.NOT_RESOLVED
    if row.ci_low > limit.share:
        return Outcome.FAILED
    return Outcome.PASSED if row.ci_high <= limit.share else Outcome.NOT_RESOLVED


def _conclusion(outcome: Outcome, parts: Sequence[Judged]) -> str:
    if outcome is Outcome.PASSED:
        return f"Gate passed: {'; '.join(_finding(part) for part in parts)}."
    named = "; ".join(_finding(part) for part in parts if part.outcome == outcome)
    if outcome is Outcome.FAILED:
        return f"Gate failed: {named}."
    return f"Gate not resolved, so neither passed nor failed: {named}."


def _finding(part: Judged) -> str:
    row = part.change
    if row.change is None or row.ci_low is None or not row.trusted:
        return f"{row.part}: {row.reason}"
    return f"{row.part} {row.percent()} {row.interval(None)}, limit +{percent(part.limit)}"


def gate_table(judgement: GateFindings) -> Table:
    """One row a limit, the conclusion under it."""
    ref, new = judgement.comparison.ref, judgement.comparison.new
    parts: list[Column[Judged]] = within(part_columns(judgement.comparison), lambda judged: judged.change)
    columns: list[Column[Judged]] = [
        *(column for column in parts if column.header != "verdict"),
        Column("limit", lambda judged: judged.limit, lambda share: f"+{percent(share)}", "limit"),
        Column("outcome", lambda judged: judged.outcome, name="outcome", words=True),
    ]
    notes = [judgement.conclusion, *comparison_notes(judgement.comparison)]
    return Table(f"perstep gate: {ref.name} → {new.name}", columns, judgement.parts, notes)
