"""The stored runs of one workload on one machine by date, each against the one before it by the verdict rule.

A row says `faster` or `slower` only where a comparison of the two runs would: the spread of runs of the same code is in
the interval. Nothing is fitted through the rows.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from perstep.errors import InputError, PerstepError
from perstep.measure.names import is_headline
from perstep.report import Column, Table
from perstep.report.change import RelativeChange, change_columns
from perstep.report.format import duration, plural, time_unit
from perstep.report.table import in_files, interval_columns, time_column
from perstep.runs import RUNS, StoredRun, open_run, read_runs
from perstep.stored.between import PartChange, compare_runs, different_work
from perstep.stored.repeats import learn_spread, reduce_run

MOST_RUNS = 20
"""The newest runs that are read; each comparison reads the A/A runs anew."""


class HistoryRow(RelativeChange, frozen=True, kw_only=True):
    """A run of a history; its change is against the run before it.

    Attributes:
        run: its name.
        began: UTC, ISO 8601.
        perstep_version: what measured it.
        git_commit: of the folder it was measured in.
        step_ns: the headline step.
        ci_low_ns: lower end of its interval from its own rounds, or None.
        ci_high_ns: upper end.
        rounds: that were measured.
    """

    run: str
    began: str
    perstep_version: str
    git_commit: str
    step_ns: float
    ci_low_ns: float | None
    ci_high_ns: float | None
    rounds: int


@dataclass(frozen=True)
class History:
    """Stored runs of one workload on one machine.

    Attributes:
        name: of the run that was asked for.
        workload: in words.
        rows: oldest first.
        spread: how much runs of the same code differ, in a sentence; empty with one run.
        notes: runs that could not be read, and how many older ones there are.
    """

    name: str
    workload: str
    rows: list[HistoryRow]
    spread: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def finding(self) -> str:
        """How many changes the verdict rule sees."""
        changed = [row for row in self.rows if row.verdict in ("faster", "slower")]
        last = self.rows[-1]
        step = f"{duration(last.step_ns)} in {last.run}"
        if not changed:
            return f"{step}; no change is resolved in {plural(len(self.rows), 'run')} of this workload"
        said = "; ".join(f"{row.run} {row.verdict} {row.percent(2)} {row.interval(2)}" for row in changed)
        return f"{step}; against the run before: {said}"


def history_of(name: str, root: Path = RUNS) -> History:
    """The history of a run.

    Args:
        name: a folder, a run's name or number, or a baseline.
        root: where the other runs lie.

    Raises:
        InputError: there is no such run, or it has no ledger to compare.
        InvalidMeasurement: it is invalid.
    """
    asked = open_run(name)
    alike = [run for run in read_runs(root)[0] if not different_work(asked.manifest, run.manifest)]
    if all(run.manifest.run_id != asked.manifest.run_id for run in alike):
        alike.append(asked)
    alike.sort(key=lambda run: run.manifest.started_at)
    older, alike = alike[:-MOST_RUNS], alike[-MOST_RUNS:]
    reduced, notes = [], [f"{plural(len(older), 'older run')} left out"] if older else []
    for stored in alike:
        try:
            run = reduce_run(stored)
            costs = {part: replace(cost, ns=None) for part, cost in run.costs.items()}  # of many runs too much
            reduced.append((stored, replace(run, costs=costs)))
        except PerstepError as error:
            if stored.manifest.run_id == asked.manifest.run_id:
                raise
            notes.append(f"left out: {error}")
    rows, spread = [], ""
    for place, (stored, run) in enumerate(reduced):
        before = reduced[place - 1] if place else None
        if before is None:
            other = compare_runs(run, run, learn_spread(stored, stored))
            rows.append(_row(stored, _headline(other.parts), change=False))
            continue
        comparison = compare_runs(before[1], run, learn_spread(before[0], stored))
        spread = comparison.spread.sentence
        rows.append(_row(stored, _headline(comparison.parts), change=True))
    if not rows:
        raise InputError(f"{name} has no ledger to compare; give a `ledger` run")
    workload = str(asked.manifest.model.get("name", asked.manifest.experiment))
    return History(asked.folder.name, f"{asked.manifest.experiment} of {workload}", rows, spread, notes)


def _headline(parts: list[PartChange]) -> PartChange:
    return next((row for row in parts if is_headline(row.part)), parts[0])


def _row(stored: StoredRun, step: PartChange, *, change: bool) -> HistoryRow:
    manifest = stored.manifest
    git = manifest.machine.get("git")
    kept = {name: getattr(step, name) for name in RelativeChange.__struct_fields__} if change else {}
    return HistoryRow(
        run=stored.folder.name,
        began=manifest.started_at,
        perstep_version=manifest.perstep_version,
        git_commit=str(git.get("commit", "unknown"))[:12] if isinstance(git, dict) else "unknown",
        step_ns=step.new_ns or 0.0,
        ci_low_ns=step.new_ci_low_ns,
        ci_high_ns=step.new_ci_high_ns,
        rounds=step.rounds,
        **kept,
    )


def _change(row: HistoryRow) -> RelativeChange:
    return row


def history_table(history: History) -> Table:
    """A row a run, oldest first."""
    unit = time_unit(row.step_ns for row in history.rows)
    columns: list[Column[HistoryRow]] = [
        Column("run", lambda row: row.run, name="run", words=True),
        Column("began", lambda row: row.began[:16].replace("T", " "), words=True),
        *in_files("began"),
        Column("commit", lambda row: row.git_commit, name="git_commit", words=True, drop=1),
        *in_files("perstep_version"),
        time_column("", lambda row: row.step_ns, unit, per="/step", name="step_ns"),
        *interval_columns(
            lambda row: (row.ci_low_ns, row.ci_high_ns), unit, header="own rounds", names=("ci_low_ns", "ci_high_ns")
        ),
        *change_columns(_change, 2),
    ]
    notes = [note for note in (history.spread, *history.notes) if note]
    return Table(f"{history.workload}: runs by date, each against the one before", columns, history.rows, notes)
