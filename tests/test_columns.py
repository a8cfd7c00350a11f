"""The columns of every experiment's tables and files, as its stored run has them: one specification for both."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from perstep.experiments import pipeline, registry
from perstep.report import Column, Table

GOLDEN = Path(__file__).parent / "golden"
FOLLOW = {"95 % interval", "verdict"}
"""Headers that belong to the column before them, and may be there for several."""
UNIT = re.compile(r"_(ns|us|ms)(_per_\w+|_with\w*_cache)?$|^(theory|per_token)_ms|(^|_)bytes")
WITHOUT_UNIT = {"ratio", "R²", "exponent", "place/alone", "measured/bound", "perplexity"}
"""Quantities that are numbers."""


@pytest.fixture(scope="module", params=registry.EXPERIMENTS)
def report(request: pytest.FixtureRequest) -> Any:
    """What a stored run shows."""
    return pipeline.look(GOLDEN / request.param)


def _values(column: Column[Any], table: Table) -> list[Any]:
    return [value for row in table.records if (value := column.value(row)) not in (None, "")]


def _files(name: str) -> dict[str, list[str]]:
    """Column -> the cells that the CSV files of a stored run have of it."""
    cells: dict[str, list[str]] = {}
    for path in (GOLDEN / name).glob("*.csv"):
        for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")):
            for column, cell in row.items():
                cells.setdefault(column, []).append(cell)
    return cells


def test_names_are_unique(report: Any) -> None:
    """No two columns of a table have one header or one name in files."""
    for table in report.tables:
        headers = [name for name in table.header if name and name.partition(" (")[0] not in FOLLOW]
        names = [column.name for column in table.columns if column.name]
        assert len(headers) == len(set(headers)), table.title
        assert len(names) == len(set(names)), table.title


def test_a_quantity_has_its_unit(report: Any) -> None:
    """In the header, or in the cell itself, as a per cent and a single duration have it."""
    for table in report.tables:
        for column in table.shown:
            cells = [column.form(value) for value in _values(column, table) if isinstance(value, float)]
            with_unit = all(re.search(r"[%×]$| (ns|µs|ms|s)$|^\S+ \[", cell) for cell in cells)
            assert column.unit or with_unit or column.header in WITHOUT_UNIT or not column.header, (
                f"{column.heading!r} of {table.title!r}"
            )
            assert column.unit or not UNIT.search(column.name) or with_unit, column.name


def test_a_file_has_the_columns_of_the_tables(report: Any) -> None:
    """Every column of a table that has a name is in a CSV of the run, with the values that the table rounds."""
    files = _files(report.manifest.experiment)
    for table in report.tables:
        for column in table.columns:
            if column.name:
                assert column.name in files, f"{column.heading} of {table.title}"
                values = _values(column, table)
                written = {" ".join(map(str, v)) if isinstance(v, list) else str(v) for v in values}
                assert written - set(files[column.name]) <= _only_shown(report.manifest.experiment, table, column)


def _only_shown(experiment: str, table: Table, column: Column[Any]) -> set[str]:
    """Sums of a ledger, which tables have and files do not."""
    if experiment not in ("ledger", "watch", "ops"):
        return set()
    sums = [row for row in table.records if "step (" in str(row) or "step, " in str(row)]
    return {str(column.value(row)) for row in sums}


@pytest.mark.parametrize("name", registry.EXPERIMENTS)
def test_the_file_that_a_command_prints_is_read_back(name: str) -> None:
    """Unique names in its first line; every row as long as that."""
    rows = list(csv.reader(io.StringIO(pipeline.look(GOLDEN / name).csv, newline="")))
    assert len(set(rows[0])) == len(rows[0])
    assert all(rows[0])
    assert {len(row) for row in rows} == {len(rows[0])}
