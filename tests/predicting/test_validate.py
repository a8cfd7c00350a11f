"""Validation: whole groups are left out, baselines stand beside, and a locked prediction meets what came after it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.predicting.cells import Cell, Cells
from perstep.predicting.fit import architecture
from perstep.predicting.lock import check, lock, read_lock
from perstep.predicting.show import check_table, validation_tables
from perstep.predicting.validate import NEIGHBOUR, OWN, POOLED, ROOF, ROOF_POOLED, SHEET, Score, Sheet, _said, validate
from perstep.report import to_csv, to_text
from perstep.sweeps.grid import parse_grid

Law = Callable[..., list[Cell]]


def scores(found: list[Cell], sheet: Sheet | None = None) -> dict[tuple[str, str], Score]:
    """By what is left out and method."""
    (validation,) = validate(Cells(found, Counter()), sheet)
    return {(score.left_out, score.method): score for score in validation.scores}


def test_a_law_is_found_again_and_baselines_are_not(law: Law) -> None:
    """Fitted predictions are off by next to nothing, the roofline and the nearest cell by much; each on all cells."""
    found = scores(law(), Sheet(50.0, 500.0))
    methods = {OWN, POOLED, ROOF, ROOF_POOLED, SHEET, NEIGHBOUR}
    assert {method for left_out, method in found if left_out == "architecture"} == methods
    ours = found["architecture", OWN]
    assert (ours.folds, ours.cells) == (8, 32)
    assert ours.worst < 0.01
    assert ours.within == 1.0
    assert found["architecture", ROOF].median > 0.05
    assert found["architecture", NEIGHBOUR].median > 0.05
    assert found["architecture", SHEET].median > found["architecture", ROOF].median
    assert found["octave of context", OWN].folds == 2
    assert not [left_out for left_out, _ in found if left_out == "machine"]
    for score in found.values():
        assert score.median <= score.p90 <= score.worst


def test_intervals_hold_nine_of_ten_cells_of_architectures_that_were_left_out(law: Law) -> None:
    """With noise of ±20 % on each cell."""
    found = scores(law(0.2))["architecture", OWN]
    assert found.coverage is not None
    assert found.coverage >= 0.9
    assert found.derived is not None
    assert 0 < found.derived < 16, "the smallest and the largest architecture lie outside of the others"
    assert 0.02 < found.median < 0.2
    assert found.within < 1.0


def test_a_machine_that_drifts_makes_intervals_wider(law: Law, measured: Any) -> None:
    """Predictions take the ceilings of other cells, so how far these are off belongs into their interval."""
    cells = [
        replace(
            cell, figures=replace(cell.figures, read_gb_s={n: rate * f for n, rate in cell.figures.read_gb_s.items()})
        )
        for cell, f in zip(law(), [1.0, 0.7] * 16, strict=True)
    ]
    cells = [measured(cell.subject, figures=cell.figures) for cell in cells]
    found = scores(cells)
    own, pooled = found["architecture", OWN], found["architecture", POOLED]
    assert own.worst < 0.01
    assert pooled.worst > 0.1
    assert pooled.coverage is not None
    assert pooled.coverage >= 0.9


def test_errors_of_parts_that_cancel_in_the_step_are_seen(law: Law) -> None:
    """One part of an architecture takes what another one lacks: the step is right, and its parts are not."""
    cells = []
    for cell in law():
        parts = dict(cell.parts_ns)
        moved = 0.3 * parts["mlp"] if cell.subject.arch == "arch-4" else 0.0
        cells.append(replace(cell, parts_ns={**parts, "mlp": parts["mlp"] - moved, "attn": parts["attn"] + moved}))
    held = next(one for one in _said(cells, architecture, None)[OWN] if one.cell.subject.arch == "arch-4")
    signed, total = held.parts()
    assert total > 0.2 * held.cell.step_ns
    assert abs(signed) < 0.2 * total


def test_machines_are_left_out_where_there_are_two(law: Law) -> None:
    """By the ceilings of the new machine's own rounds; no other cell of it tells any."""
    found = scores(law(archs=4, speeds=(1.0, 0.4)))
    assert found["machine", OWN].folds == 2
    assert found["machine", OWN].worst < 0.01
    assert ("machine", POOLED) not in found


def test_noisy_cells_are_left_out_and_counted(law: Law) -> None:
    """Those whose own interval is wider than 5 %; without a quiet one all are taken, and that is said."""
    cells = law(archs=4)
    some = [replace(cell, noise=0.2 if index % 4 == 0 else 0.01) for index, cell in enumerate(cells)]
    (validation,) = validate(Cells(some, Counter()))
    assert validation.scores[0].cells == 12
    assert "4 cells are left out" in validation.notes[1]
    assert validation.notes[2].startswith(f"With them, left-out architecture, {OWN}: median 0.0 %, p90 0.0 %")
    (noisy,) = validate(Cells([replace(cell, noise=None) for cell in cells], Counter()))
    assert "mostly noise" in noisy.notes[1]


def test_a_baseline_that_is_better_is_named(law: Law) -> None:
    """Where context changes nothing, the cell at the other context is exact, and a fit of other ceilings is not."""
    (usual,) = validate(Cells(law(0.1), Counter()))
    assert not [note for note in usual.notes if "better" in note]
    by_shape = {(cell.subject.arch, cell.subject.shape.num_layers): cell for cell in law(0.1)}
    flat = []
    for index, cell in enumerate(law(0.1)):
        same = by_shape[cell.subject.arch, cell.subject.shape.num_layers]
        figures = replace(cell.figures, gemm_gflop_s=(50.0, 200.0)[index % 2], read_gb_s={
            size: rate * (0.5, 2.0)[index // 2 % 2] for size, rate in cell.figures.read_gb_s.items()})  # fmt: skip
        flat.append(replace(cell, step_ns=same.step_ns, parts_ns=same.parts_ns, figures=figures))
    (found,) = validate(Cells(flat, Counter()))
    said = [note for note in found.notes if "better" in note]
    assert any(
        note.startswith(f"Left-out octave of context: {NEIGHBOUR} is better than {POOLED}: median 0.0 % against")
        for note in said
    ), found.notes


def test_what_cannot_be_left_out_is_refused(law: Law) -> None:
    """One architecture at one context."""
    with pytest.raises(InputError, match="nothing can be left out"):
        validate(Cells(law()[:3], Counter()))


def test_the_tables_say_what_files_say(law: Law) -> None:
    """A row a method, unrounded in the CSV; nothing is measured, nothing has no unit."""
    (table,) = validation_tables(validate(Cells(law(0.1, archs=5), Counter())))
    lines = to_csv(table.columns, table.records).splitlines()
    assert lines[0].startswith(
        "method,left_out,folds,cells,median,p90,worst,within,coverage,derived,parts,cancelling,noise"
    )
    assert len(lines) == 1 + len(table.records)
    assert "5 architectures" in to_text(table)


GRID = """
experiment = "ledger"
[options]
arch = "smollm2-135m"
new-tokens = 8
[grid]
layers = [2, 4]
prompt-tokens = [64, 4096, 1000000]
"""


@pytest.fixture
def world(law: Law, step: Any, measured: Any) -> tuple[list[Cell], Any]:
    """Cells to fit on, and the grid."""
    return law(archs=8), parse_grid(GRID.encode(), "grid.toml")


def test_a_lock_is_written_once_and_checked_with_later_cells_alone(
    world: tuple[list[Cell], Any], measured: Any, tmp_path: Path
) -> None:
    """Predictions by the plan's hash; what cannot be predicted says why; a cell that is older is refused by name."""
    cells, grid = world
    path = tmp_path / "lock.json"
    told = []
    made = lock(path, grid, Cells(cells, Counter()), None, lambda share, what: told.append((share, what)))
    assert told[-1] == (1.0, "predicting 6 cells")
    assert read_lock(path) == made
    assert len(made.predictions) + len(made.refused) == 6
    assert made.predictions
    assert any("lies beyond" in why for why in made.refused.values())
    with pytest.raises(InputError, match="never written over"):
        lock(path, grid, Cells(cells, Counter()), None)

    key, said = next(iter(made.predictions.items()))
    later = replace(cells[0], name=f"{key}.1", step_ns=said.step_ns / 1.1, began_at="2999-01-01T00:00:00+00:00")
    (row,) = check(made, Cells([later], Counter()))
    assert row.error == pytest.approx(0.1)
    assert "median 10.0 %" in to_text(check_table(made, [row]))
    older = replace(later, began_at="2001-01-01T00:00:00+00:00")
    with pytest.raises(InputError, match=rf"1 cell is older than the lock .* such as {key}\.1 of 2001"):
        check(made, Cells([later, older], Counter()))
    with pytest.raises(
        InputError, match=r"no cell of the sweep is in the lock \(2 left out: its ceilings were disturbed"
    ):
        check(made, Cells([cells[0]], Counter({"its ceilings were disturbed": 2})))


@pytest.mark.parametrize(
    ("grid", "wrong"),
    [
        ('experiment = "mask"\n[grid]\nseed = [1]', "the grid measures `mask`"),
        ('experiment = "ledger"\n[options]\nmodel = "elsewhere"\n[grid]\nbatch = [1]', "is a stored model"),
        ('experiment = "ledger"\n[options]\nn = 1\n[grid]\nbatch = [1]', "two or more --new-tokens"),
    ],
)
def test_what_cannot_be_locked_is_refused(law: Law, tmp_path: Path, grid: str, wrong: str) -> None:
    """And no file is written."""
    with pytest.raises(InputError, match=wrong):
        lock(tmp_path / "lock.json", parse_grid(grid.encode(), "grid.toml"), Cells(law(), Counter()), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "wrong"), [(None, "cannot read"), ("{", "is no lock")])
def test_a_damaged_lock_is_refused(tmp_path: Path, content: str | None, wrong: str) -> None:
    """By its name."""
    path = tmp_path / "lock.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=wrong):
        read_lock(path)
