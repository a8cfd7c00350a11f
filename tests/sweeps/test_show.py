"""A sweep's table, files and pictures: what they hold, and that machines are never pooled."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perstep.report import to_text
from perstep.sweeps.drift import drifts
from perstep.sweeps.folder import Sweep
from perstep.sweeps.grid import Cell
from perstep.sweeps.pictures import _Measured, _short_names, pictures
from perstep.sweeps.rows import Row, _at, _numbers
from perstep.sweeps.show import table_of, write_all


def row(position: int, value: float | None, *, machine: str = "m1", reference: bool = False, **values: Any) -> Row:
    """A cell that took this many nanoseconds, or failed."""
    kind = "ref" if reference else ""
    cell = Cell(
        key=f"{position:012x}.{kind}1",
        position=position,
        block=1,
        is_reference=reference,
        values={"context": 8, "batch": 1, **values},
        words=[],
    )
    if value is None:
        return Row(cell, "failed", 3, why="exit code 2: it does not fit")
    figures = {"step_ns": value, "share": value / 1e9}
    return Row(cell, "done", 1, run=f"cells/{cell.key}/1/run", machine=machine, hardware=f"processor {machine}",
               figures=figures)  # fmt: skip


ROWS = [
    row(0, 1_000_000.0, reference=True),
    row(1, 4_000_000.0, context=64),
    row(2, 1_000_000.0),
    row(3, None, context=64, batch=4),
    row(4, 2_000_000.0, batch=4),
    row(5, 1_200_000.0, reference=True),
]


@pytest.fixture
def sweep(small_sweep: Callable[..., Sweep], tmp_path: Path) -> Sweep:
    """Any sweep; the rows are given."""
    return small_sweep(tmp_path / "out", cells=1)


def test_the_table_has_every_cell_with_what_became_of_it(sweep: Sweep) -> None:
    """In the order of the grid, the reference last; the failed one by name; how far the reference drifted."""
    table = table_of(sweep, ROWS)
    assert [record.cell.position for record in table.records] == [2, 4, 1, 3, 0, 5]
    text = to_text(table)
    assert "step (ms)" in text
    assert "6 cells: 5 done, 1 failed." in text
    assert "Failed: 000000000003.1 (context 64, batch 4): exit code 2: it does not fit." in text
    assert "step_ns of one differs from their median by up to 9.1 %, the last from the first by +20.0 %." in text


def test_a_table_fits_a_narrow_terminal(sweep: Sweep) -> None:
    """Of 80 characters, however long the reason of a failure is; every cell is named in each piece."""
    rows = [*ROWS, replace(ROWS[3], why="exit code 2: " + "it does not fit " * 20)]
    lines = to_text(table_of(sweep, rows), 80).splitlines()
    assert max(map(len, lines)) <= 80
    pieces = sum(line.startswith("cell ") for line in lines)
    assert pieces > 1
    assert sum(line.startswith("000000000002.1") for line in lines) == pieces


def test_files_have_numbers_and_the_key_first(sweep: Sweep, tmp_path: Path) -> None:
    """In the order in which cells were measured; a picture that is no longer made is removed."""
    (tmp_path / "out" / "curves-2.png").write_bytes(b"old")
    write_all(tmp_path / "out", sweep, ROWS)
    read = list(csv.DictReader((tmp_path / "out" / "sweep.csv").read_text().splitlines()))
    assert [one["position"] for one in read] == ["0", "1", "2", "3", "4", "5"]
    assert next(iter(read[0])) == "key"
    assert read[1]["step_ns"] == "4000000.0"
    assert (read[3]["step_ns"], read[3]["why"]) == ("", "exit code 2: it does not fit")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"curves.png", "heat-map.png"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "5 of 6 cells measured" in page
    assert "000000000003.1" in page
    assert "![curves.png](curves.png)" in (tmp_path / "out" / "README.md").read_text()


def test_parquet_has_the_columns_of_the_csv(sweep: Sweep, tmp_path: Path) -> None:
    """Where pyarrow is installed."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    write_all(tmp_path / "out", sweep, ROWS)
    found = parquet.read_table(tmp_path / "out" / "sweep.parquet").to_pydict()
    with (tmp_path / "out" / "sweep.csv").open() as file:
        assert list(found) == next(csv.reader(file))
    assert found["step_ns"][1] == 4_000_000.0
    assert found["step_ns"][3] is None


def test_machines_are_never_pooled(sweep: Sweep) -> None:
    """A picture each, of their own cells; drift of each; a column, and a sentence."""
    both = [*ROWS, *(row(10 + one.cell.position, 9e6, machine="m2", **one.cell.values) for one in ROWS)]
    made = pictures(both)
    assert sorted(made) == ["curves-1.png", "curves-2.png", "heat-map-1.png", "heat-map-2.png"]
    assert all(png.startswith(b"\x89PNG") for png in made.values())
    assert [one.hardware for one in drifts(both)] == ["processor m1"]
    text = to_text(table_of(sweep, both))
    assert "2 machines measured; their figures are not pooled." in text
    assert "hardware" in text


def test_a_pictures_value_is_the_median_of_repetitions() -> None:
    """Of the same cell, in the picture's unit; nothing where nothing was measured."""
    rows = [row(n, value, context=16) for n, value in enumerate((1e6, 2e6, 9e6))] + [row(3, 5e6)]
    measured = _Measured("step_ns", rows)
    assert measured._value({"context": 16}) == 2.0
    assert measured._value({"context": 8, "batch": 1}) == 5.0
    assert measured._value({"context": 99}) is None
    assert measured.axes == {"context": [8, 16]}


@pytest.mark.parametrize(
    ("levels", "names"),
    [
        (["b/arch/gpt2/config.json", "b/arch/opt/config.json"], ["gpt2", "opt"]),
        (["gpt2", "opt"], ["gpt2", "opt"]),
        (["a/x", "a/x/y"], ["a/x", "a/x/y"]),
        ([1, 16], ["1", "16"]),
    ],
)
def test_paths_are_named_by_what_differs(levels: list[Any], names: list[str]) -> None:
    """The whole path of a configuration would cover the picture; nothing is left without a name."""
    assert _short_names(levels) == names
    rows = [row(n, 1e6 * (n + 1), arch=level, context=c) for n, level in enumerate(levels) for c in (8, 64)]
    measured = _Measured("step_ns", rows)
    drawn = [series.name for panel in measured.panels() for series in panel.series if series.kind == "joined"]
    assert drawn == [f"arch {name}" for name in names] or isinstance(levels[0], int)
    assert measured._words({"arch": levels[0]}) == f"arch {names[0]}"


def test_a_sweep_without_figures_has_no_pictures() -> None:
    """All failed, or all figures words, or nothing varies."""
    assert pictures([row(0, None)]) == {}
    assert pictures([row(0, 1e6), row(1, 1e6)]) == {}


def test_figures_below_0_have_a_picture() -> None:
    """An overhead may be negative everywhere, or nothing."""
    for value in (-1e6, 0.0):
        rows = [row(n, value, context=8 * (n // 2 + 1), batch=n % 2 + 1) for n in range(4)]
        assert sorted(pictures(rows)) == ["curves.png", "heat-map.png"]


def test_figures_are_found_by_path_and_in_summaries() -> None:
    """A part's name may have points in it; texts of a summary are left out."""
    results = {"decode": {"parts": {"attn.qkv": {"ns": 5}}}, "list": [{"x": 1}], "none": None, "map": {}}
    assert _at(results, ["decode", "parts", "attn", "qkv", "ns"]) == 5
    assert _at(results, ["list", "0", "x"]) == 1
    assert [_at(results, path.split(".")) for path in ("none", "map", "decode.nothing", "list.7.x")] == [None] * 4
    assert _numbers({"a": 1, "b": {"c": 2.5, "d": "x"}, "e": True, "f": None}) == {"a": 1, "b.c": 2.5}
