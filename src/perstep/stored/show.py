"""A comparison of two stored runs as tables, in benchstat's manner: one row a part, one table a kind of step."""

from dataclasses import replace
from operator import attrgetter

from perstep.report import Column, Table, to_csv
from perstep.report.change import change_columns
from perstep.report.format import duration, percent
from perstep.report.table import in_files
from perstep.stored.between import PartChange, RunFacts, StoredComparison


def comparison_tables(comparison: StoredComparison) -> list[Table]:
    """One table for each kind of step, the headline in its first row; what qualifies them under the last."""
    kinds = dict.fromkeys(row.kind for row in comparison.parts)
    tables = [_table(comparison, kind) for kind in kinds]
    tables[-1].notes.extend(comparison_notes(comparison))
    return tables


def _table(comparison: StoredComparison, kind: str) -> Table:
    rows = [row for row in comparison.parts if row.kind == kind]
    return Table(
        title=f"{kind}: {comparison.ref.name} → {comparison.new.name}",
        columns=part_columns(comparison),
        records=rows,
        rule_before=frozenset({1}) if len(rows) > 1 else frozenset(),
        notes=_reasons(rows),
    )


def part_columns(comparison: StoredComparison) -> list[Column[PartChange]]:
    """Part, both runs, change, interval, verdict."""
    change, interval, *others, verdict = change_columns(lambda row: row, None)
    confidence = f"{100 * comparison.confidence:.0f} % interval"
    return [
        Column("part", lambda row: row.part, name="part", words=True),
        *in_files("kind"),
        *_run_columns("ref", comparison.ref),
        *_run_columns("new", comparison.new),
        change,
        replace(interval, header=confidence),
        *others,
        Column("verdict", _verdict, words=True),
        replace(verdict, header=None),
        *in_files("reason"),
    ]


def _run_columns(which: str, run: RunFacts) -> list[Column[PartChange]]:
    """What one of the two runs says of a part."""
    names = f"{which}_ns", f"{which}_ci_low_ns", f"{which}_ci_high_ns"
    cost = attrgetter(*names)
    return [Column(f"{run.name} (n={run.rounds})", lambda row: _cost(*cost(row))), *in_files(*names)]


def _verdict(row: PartChange) -> str:
    detectable = row.mde is not None and not row.resolved
    return f"{row.verdict} (detectable: {_coarse(row.mde or 0.0)})" if detectable else row.verdict


def _coarse(share: float) -> str:
    return percent(share, 1 if share < 1 else 0)


def _cost(ns: float | None, low: float | None, high: float | None) -> str:
    """`239 µs ±0.4 %`: what the run's own rounds say."""
    if ns is None:
        return "–"
    if low is None or high is None or ns <= 0:
        return duration(ns)
    return f"{duration(ns)} ±{percent((high - low) / 2 / ns)}"


def _reasons(rows: list[PartChange]) -> list[str]:
    """Why rows have no interval, each reason once."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.ci_low is None:
            reasons.setdefault(row.reason, []).append(row.part)
    return [f"No interval for {', '.join(parts)}: {reason}." for reason, parts in reasons.items()]


def comparison_notes(comparison: StoredComparison) -> list[str]:
    """Between-run noise, what differs, what was repaired."""
    notes = [f"Measured: {comparison.workload}.", comparison.spread.sentence]
    if comparison.different_work:
        notes.append(f"The runs did NOT do the same work (--allow-different): {'; '.join(comparison.different_work)}.")
    if comparison.different_code:
        notes.append(f"Different code: {'; '.join(comparison.different_code)}.")
    return [*notes, *(f"{note}." for note in comparison.notes)]


def comparison_csv(comparison: StoredComparison) -> str:
    """A row a part, in nanoseconds."""
    return to_csv(part_columns(comparison), comparison.parts)
