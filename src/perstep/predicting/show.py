"""Predictions, validations and checks as tables."""

from collections.abc import Sequence
from math import ceil
from statistics import median

from perstep._words import plural, time_unit
from perstep.predicting.features import COEFFICIENTS
from perstep.predicting.fit import COVERAGE, Fit
from perstep.predicting.fleet import Fleet
from perstep.predicting.lock import Checked, Lock
from perstep.predicting.predict import PREDICTED, Prediction
from perstep.predicting.validate import NEAR, Score, Validation
from perstep.report import Column, Table
from perstep.report.format import duration, percent, signed_percent, significant
from perstep.report.table import interval_columns, time_column

Part = tuple[str, float]
"""A part's name and time."""


def prediction_table(step: Prediction, fit: Fit, fleet: Fleet | None) -> Table:
    """The step and its parts, with what qualifies them."""
    rows: list[Part] = [*sorted(step.parts_ns.items(), key=lambda part: -part[1]), ("step", step.step_ns)]
    unit = time_unit([step.step_ns])
    ends = (step.low_ns, step.high_ns)
    columns: list[Column[Part]] = [
        Column("part", lambda row: row[0], name="part", words=True),
        time_column("predicted", lambda row: row[1], unit, per="/step", name="predicted_ns"),
        Column("share", lambda row: row[1] / step.step_ns, percent, "share"),
        *interval_columns(
            lambda row: ends if row[0] == "step" else "",
            unit,
            header=f"{percent(COVERAGE, 0)} interval",
            names=("low_ns", "high_ns"),
        ),
        Column("made of", lambda row: _made_of(fit, row[0]), name="made_of", words=True),
    ]
    return Table(f"{step.status}: {step.name}", columns, rows, _notes(step, fit, fleet), frozenset({len(rows) - 1}))


def _made_of(fit: Fit, part: str) -> str:
    """The coefficients of a part: `1.08 roofline, 3.1 calls`."""
    return ", ".join(f"{significant(value)} {name}" for name, value in fit.parts.get(part, {}).items())


def _notes(step: Prediction, fit: Fit, fleet: Fleet | None) -> list[str]:
    kind = "Predicted" if step.status == PREDICTED else f"Derived, without an interval: {step.why_derived}"
    fitted = f"{plural(step.cells, 'cell')} of {plural(step.architectures, 'architecture')}"
    roofline = f"Roofline of the ceilings, nothing fitted: {duration(step.roofline_ns)}."
    notes = [
        f"{kind}. Fitted on {fitted} ({step.way}; {step.hardware}).",
        f"Nearest measured cell: {step.nearest}, {duration(step.nearest_ns)}. {roofline}",
        f"Weights {step.weight_bytes / 2**30:,.2f} GiB, cache {step.cache_bytes / 2**30:,.2f} GiB (derived).",
    ]
    notes.append("; ".join(f"{name}: {words}" for name, words in COEFFICIENTS.items()) + ".")
    if step.device_ns:
        both = f"host {duration(step.host_ns)}, device {duration(step.device_ns)}"
        notes.append(f"The step is the overlap of two: {both}; {percent(fit.exposed)} of the shorter is added.")
    return notes if fleet is None else [*notes, _of_fleet(fleet)]


def _of_fleet(fleet: Fleet) -> str:
    low, high = fleet.low_tokens_per_s, fleet.high_tokens_per_s
    ends = "" if low is None or high is None else f" [{significant(low)}, {significant(high)}]"
    rate = f"{significant(fleet.tokens_per_s)} tokens/s{ends}"
    each = f"{fleet.bytes_each / 2**30:,.2f} GiB"
    return f"Derived: {plural(fleet.machines, 'machine')} with {each} each decode {rate} together, if none waits."


def validation_tables(validations: Sequence[Validation]) -> list[Table]:
    """A table for each way of carrying out steps: a row a method, for each kind of fold."""
    tables = []
    for one in validations:
        folds = [score.left_out for score in one.scores]
        rules = frozenset(index for index in range(1, len(folds)) if folds[index] != folds[index - 1])
        tables.append(Table("errors of left-out cells", _score_columns(), one.scores, list(one.notes), rules))
    return tables


def _score_columns() -> list[Column[Score]]:
    def share(value: float) -> str:
        return percent(value)

    return [
        # The method first: where a terminal is narrow, the first column stands beside every piece of the table.
        Column("method", lambda row: row.method, name="method", words=True),
        Column("left out", lambda row: row.left_out, name="left_out", words=True),
        Column("folds", lambda row: row.folds, name="folds"),
        Column("cells", lambda row: row.cells, name="cells"),
        Column("median", lambda row: row.median, share, "median"),
        Column("p90", lambda row: row.p90, share, "p90"),
        Column("worst", lambda row: row.worst, share, "worst"),
        Column(f"within {percent(NEAR, 0)}", lambda row: row.within, share, "within"),
        Column("coverage", lambda row: row.coverage, share, "coverage"),
        Column("derived", lambda row: row.derived, name="derived"),
        Column("parts", lambda row: row.parts, share, "parts"),
        Column("left in the step", lambda row: row.cancelling, share, "cancelling"),
        Column("noise", lambda row: row.noise, lambda value: f"±{percent(value)}", "noise"),
    ]


def check_table(locked: Lock, rows: Sequence[Checked]) -> Table:
    """A row a cell, measured after its prediction was locked."""
    unit = time_unit([row.measured_ns for row in rows])
    columns: list[Column[Checked]] = [
        Column("cell", lambda row: row.cell, name="cell", words=True),
        Column("step", lambda row: row.name, name="name", words=True),
        Column("status", lambda row: row.status, name="status", words=True),
        time_column("predicted", lambda row: row.predicted_ns, unit, name="predicted_ns"),
        *interval_columns(
            lambda row: (row.low_ns, row.high_ns),
            unit,
            header=f"{percent(COVERAGE, 0)} interval",
            names=("low_ns", "high_ns"),
        ),
        time_column("measured", lambda row: row.measured_ns, unit, name="measured_ns"),
        Column("error", lambda row: row.error, signed_percent, "error"),
        Column("noise", lambda row: row.noise, lambda value: f"±{percent(value)}", "noise"),
    ]
    errors = sorted(abs(row.error) for row in rows)
    holds = [row.is_held for row in rows if row.is_held is not None]
    middle, p90 = percent(median(errors)), percent(errors[ceil(0.9 * len(errors)) - 1])
    notes = [
        f"Locked at {locked.locked_at}, before every cell here began; {plural(len(locked.fitted_on), 'run')} fitted.",
        f"Error: median {middle}, p90 {p90}, worst {percent(errors[-1])}.",
        f"Intervals that hold: {sum(holds)} of {len(holds)}.",
    ]
    if locked.refused:
        notes.append(f"Not predicted: {plural(len(locked.refused), 'cell')}.")
    return Table("locked predictions, and what was measured after them", columns, rows, notes)
