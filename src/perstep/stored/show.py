"""A comparison of two stored runs as tables, in benchstat's manner: one row a part, one table a kind of step."""

from perstep.report import Table
from perstep.report.format import duration, percent
from perstep.stored.between import PartChange, StoredComparison

CSV_HEADER = [
    "part", "kind", "ref_ns", "ref_ci_low_ns", "ref_ci_high_ns", "new_ns", "new_ci_low_ns", "new_ci_high_ns",
    "change", "ci_low", "ci_high", "mde", "verdict", "reason",
]  # fmt: skip


def comparison_tables(found: StoredComparison) -> list[Table]:
    """One table for each kind of step, the headline in its first row; what qualifies them under the last."""
    kinds = dict.fromkeys(row.kind for row in found.parts)
    tables = [_table(found, kind) for kind in kinds]
    tables[-1].notes.extend(comparison_notes(found))
    return tables


def _table(found: StoredComparison, kind: str) -> Table:
    rows = [row for row in found.parts if row.kind == kind]
    return Table(
        title=f"{kind}: {found.ref.name} → {found.new.name}",
        header=[
            "part",
            f"{found.ref.name} (n={found.ref.rounds})",
            f"{found.new.name} (n={found.new.rounds})",
            "change",
            f"{found.confidence:.0%} interval".replace("%", " %"),
            "verdict",
        ],
        rows=[part_cells(row) for row in rows],
        text_columns=frozenset({0, 5}),
        rule_before=frozenset({1}) if len(rows) > 1 else frozenset(),
        notes=_reasons(rows),
    )


def part_cells(row: PartChange) -> list[str]:
    """One row: part, both runs, change, interval, verdict."""
    verdict = row.verdict
    if row.mde is not None and not row.resolved:
        verdict += f" (detectable: {_coarse(row.mde)})"
    return [
        row.part,
        _cost(row.ref_ns, row.ref_ci_low_ns, row.ref_ci_high_ns),
        _cost(row.new_ns, row.new_ci_low_ns, row.new_ci_high_ns),
        row.percent(None),
        row.interval(None),
        verdict,
    ]


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


def comparison_notes(found: StoredComparison) -> list[str]:
    """Between-run noise, what differs, what was repaired."""
    notes = [f"Measured: {found.workload}.", found.spread.sentence]
    if found.different_work:
        notes.append(f"The runs did NOT do the same work (--allow-different): {'; '.join(found.different_work)}.")
    if found.different_code:
        notes.append(f"Different code: {'; '.join(found.different_code)}.")
    return [*notes, *(f"{note}." for note in found.notes)]


def comparison_rows(found: StoredComparison) -> list[list[object]]:
    """Numbers for a CSV, under `CSV_HEADER`."""
    return [[getattr(row, name) for name in CSV_HEADER] for row in found.parts]
