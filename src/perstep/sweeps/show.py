"""A sweep as one table, a CSV, a Parquet file where pyarrow is there, pictures, and a page.

Cells of different hardware stand in tables' rows and pictures of their own and are never pooled.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

from perstep._version import __version__
from perstep._words import plural, significant
from perstep.report import Column, Table, to_csv
from perstep.report.format import percent, signed_percent
from perstep.report.page import REPORT, Content, Page, render_page
from perstep.report.table import to_records
from perstep.report.words import render
from perstep.runs import children, replace_file
from perstep.sweeps.drift import Drift, drifts
from perstep.sweeps.folder import Sweep
from perstep.sweeps.pictures import panels_of, pictures, titles_of
from perstep.sweeps.rows import DAMAGED, WAITING, Found, Row, plain, shown

TABLE = "sweep.csv"
PARQUET = "sweep.parquet"
README = "README.md"
_PICTURE = re.compile(r"(heat-map|curves)(-\d+)?\.png")


def columns_of(rows: Sequence[Row]) -> list[Column[Row]]:
    """The columns of the table, the cell's key first."""
    axes = dict.fromkeys(name for row in rows for name in row.cell.values)
    figures = dict.fromkeys(name for row in rows for name in row.figures)
    several = len({row.machine for row in rows if row.machine}) > 1
    return [
        Column("cell", lambda row: row.cell.key, name="key", words=True),
        Column(None, lambda row: row.cell.plan_hash, name="plan_hash"),
        Column(None, lambda row: row.cell.position, name="position"),
        Column(None, lambda row: row.cell.block, name="block"),
        Column(None, lambda row: int(row.cell.is_reference), name="is_reference"),
        *(_axis(name) for name in axes),
        *(_figure(name, rows) for name in figures),
        Column("outcome", _outcome, words=True),
        Column(None, lambda row: row.outcome, name="outcome"),
        Column("attempts", lambda row: row.attempts, name="attempts"),
        Column(None, lambda row: row.why, name="why"),
        Column("hardware" if several else None, lambda row: row.hardware, name="hardware", words=True),
        Column(None, lambda row: row.machine, name="machine"),
        Column(None, lambda row: row.began_at, name="began_at"),
        Column(None, lambda row: row.run, name="run"),
    ]


def _axis(name: str) -> Column[Row]:
    return Column(name.strip("-"), lambda row: plain(row.cell.values.get(name)), name=f"option.{name.strip('-')}")


def _outcome(row: Row) -> str:
    return f"{row.outcome}: {row.why}" if row.why else row.outcome


def _figure(name: str, rows: Sequence[Row]) -> Column[Row]:
    """A figure in the unit that its name ends with."""
    values = [value for row in rows if isinstance(value := row.figures.get(name), int | float)]
    header, unit, size = shown(name, values)

    def cell(value: Found) -> str:
        return value if isinstance(value, str) else significant(value / size)

    return Column(header, lambda row: row.figures.get(name, ""), cell, name, unit)


def table_of(sweep: Sweep, rows: Sequence[Row]) -> Table:
    """Every cell, in the order of the grid, the reference cell's repetitions last; what qualifies them below."""
    ordered = sorted(rows, key=lambda row: (row.cell.is_reference, _sortable(row.cell.values), row.cell.block))
    return Table(f"sweep of {sweep.grid.experiment}", columns_of(rows), ordered, notes_of(rows))


def _sortable(values: dict[str, Found]) -> list[tuple[bool, float, str]]:
    return [
        (not isinstance(value, int | float), value if isinstance(value, int | float) else 0.0, str(value))
        for value in values.values()
    ]


def notes_of(rows: Sequence[Row]) -> list[str]:
    """How many cells there are and what became of them, the failed ones by name, and drift."""
    outcomes = [row.outcome for row in rows]
    counts = [f"{outcomes.count(one):,} {one}" for one in ("done", "failed", DAMAGED, WAITING) if one in outcomes]
    notes = [f"{plural(len(rows), 'cell')}: {', '.join(counts)}."]
    for word in ("failed", DAMAGED):
        notes += [f"{word.title()}: {row.cell.key} ({_values(row)}): {row.why}." for row in rows if row.outcome == word]
    notes += [_drift(one) for one in drifts(rows)]
    machines = {row.machine for row in rows if row.machine}
    if len(machines) > 1:
        notes.append(f"{plural(len(machines), 'machine')} measured; their figures are not pooled.")
    return notes


def _drift(drift: Drift) -> str:
    return (
        f"The reference cell was measured {drift.times:,} times on {drift.hardware}: {drift.figure} of one differs from"
        f" their median by up to {percent(drift.most)}, the last from the first by {signed_percent(drift.over_time)}."
    )


def _values(row: Row) -> str:
    return ", ".join(f"{name} {plain(value)}" for name, value in row.cell.values.items())


def write_all(folder: Path, sweep: Sweep, rows: Sequence[Row]) -> Table:
    """Write table, pictures and page into the sweep's folder; the table.

    Raises:
        InputError: the folder cannot be written.
    """
    table = table_of(sweep, rows)
    in_order = sorted(rows, key=lambda row: row.cell.position)
    replace_file(folder / TABLE, to_csv(table.columns, in_order).encode())
    parquet = _parquet(table, in_order)
    if parquet is not None:
        replace_file(folder / PARQUET, parquet)
    pngs = pictures(rows)
    for path in children(folder):
        if _PICTURE.fullmatch(path.name) and path.name not in pngs and not path.is_dir():
            path.unlink()
    for name, png in pngs.items():
        replace_file(folder / name, png)
    page = render(__package__, table=table, sweep=sweep, pictures=sorted(pngs), parquet=parquet is not None)
    replace_file(folder / README, page)
    replace_file(folder / REPORT, render_page(page_of(sweep, rows, table)))
    return table


def page_of(sweep: Sweep, rows: Sequence[Row], table: Table) -> Page:
    """The sweep as one page: curves, the table, versions. A failed cell, and drift, come before any number."""
    experiment, done = sweep.grid.experiment, [row for row in rows if row.outcome == "done"]
    count = f"{len(done):,} of {plural(len(rows), 'cell')} measured"
    return Page(
        kind="sweep",
        title=f"perstep sweep of {experiment}",
        subject=f"{experiment} over {', '.join(sweep.grid.grid)}",
        content=Content(": ".join([count, *titles_of(rows)[:1]]), panels_of(rows)),
        tables=[table],
        facts={
            "Versions": sweep.versions,
            "Order": {"blocks": str(sweep.grid.repeats), "seed": str(sweep.grid.seed)},
            "Runs": {row.cell.key: row.run for row in done},
        },
        holds=[
            "every cell of the sweep with its options, as the grid gives them, and its figures",
        ],
        version=__version__,
        warnings=notes_of(rows)[1:],
    )


def _parquet(table: Table, rows: Sequence[Row]) -> bytes | None:
    """The CSV's columns as Parquet, a column of numbers and texts as texts; None without pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return None
    records = to_records(table.columns, rows)
    columns: dict[str, list[Found]] = {}
    for name in records[0]:
        values = [None if record[name] == "" else record[name] for record in records]
        mixed = len({isinstance(value, str) for value in values if value is not None}) > 1
        columns[name] = [None if value is None else str(value) for value in values] if mixed else values
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()
