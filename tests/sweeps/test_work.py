"""A worker: which cell it takes next, when it leaves, what it says."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perstep.cli import output
from perstep.sweeps.cell import ORPHANED
from perstep.sweeps.folder import Sweep
from perstep.sweeps.grid import Cell
from perstep.sweeps.queue import Held, Outcome, Watcher, attempts, claimed
from perstep.sweeps.rows import read_rows
from perstep.sweeps.work import Worker, in_fresh_process

MakeSweep = Callable[..., Sweep]


def worker(folder: Path, sweep: Sweep, perform: Callable[[Path, Cell, Held], str], *, stays: bool = True) -> Worker:
    """One that does not sleep."""
    return Worker(folder, sweep, lambda _share, _what: None, stays=stays, perform=perform, wait=lambda _seconds: None)


def test_cells_are_taken_in_the_order_of_the_sweep_and_failed_ones_after_the_others(
    small_sweep: MakeSweep, tmp_path: Path
) -> None:
    """A cell that fails three times is listed with its last reason, and the others are measured."""
    folder, taken = tmp_path / "sweep", []
    sweep = small_sweep(folder, cells=4)

    def perform(_folder: Path, cell: Cell, held: Held) -> str:
        taken.append((cell.position, held.number))
        return f"attempt {held.number} of this cell" if cell.position == 1 else ""

    worker(folder, sweep, perform).run()
    assert taken == [(0, 1), (1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]
    ends = [one.end and one.end.why for one in attempts(folder / "cells" / sweep.cells[1].key)]
    assert ends == [f"attempt {number} of this cell" for number in (1, 2, 3)]


def test_ctrl_c_ends_the_attempt_and_says_how_to_go_on(small_sweep: MakeSweep, tmp_path: Path) -> None:
    """The cell is not done and has not failed."""
    folder = tmp_path / "sweep"
    sweep = small_sweep(folder, cells=3)

    def perform(_folder: Path, cell: Cell, _held: Held) -> str:
        if cell.position == 1:
            raise KeyboardInterrupt
        return ""

    with pytest.raises(KeyboardInterrupt, match=f"1 of 3 cells ended: go on with --out {folder} --resume"):
        worker(folder, sweep, perform).run()
    outcomes = [[one.end and one.end.outcome for one in attempts(folder / "cells" / c.key)] for c in sweep.cells]
    assert outcomes == [[Outcome.DONE], [Outcome.STOPPED], []]


@pytest.mark.parametrize(
    ("before", "first"),
    [
        (0, "perstep: 1 of 49 cells, 2% done, about 20 min left"),
        (10, "perstep: 11 of 49 cells, 22% done, about 16 min left"),
    ],
)
def test_what_an_earlier_process_measured_is_no_part_of_the_time_left(
    before: int,
    first: str,
    small_sweep: MakeSweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of 49 cells of 25 s each ten are there already: after the next one 38 are left, which take 16 minutes."""
    folder, now_s = tmp_path / "sweep", [0.0]
    sweep = small_sweep(folder, cells=49)
    for cell in sweep.cells[:before]:
        with claimed(folder / "cells" / cell.key, Watcher()) as held:
            assert held is not None
            held.end(Outcome.DONE)
    monkeypatch.setattr(output.time, "monotonic", lambda: now_s[0])

    def perform(_folder: Path, _cell: Cell, _held: Held) -> str:
        now_s[0] += 25.0
        return ""

    with output.progress_shown(quiet=False) as progress:
        Worker(folder, sweep, progress, stays=True, perform=perform).run()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == first
    assert said[-2] == "perstep: 48 of 49 cells, 98% done, about 25 s left"


def test_a_helper_leaves_cells_to_those_who_live(small_sweep: MakeSweep, tmp_path: Path) -> None:
    """It leaves once the last cell is another one's that lives; if that one goes, it takes the cell itself."""
    folder, taken = tmp_path / "sweep", []
    sweep = small_sweep(folder, cells=2)

    def perform(_folder: Path, cell: Cell, _held: Held) -> str:
        taken.append(cell.position)
        return ""

    with claimed(folder / "cells" / sweep.cells[0].key, Watcher()) as held:
        assert held is not None
        worker(folder, sweep, perform, stays=False).run()
        assert taken == [1]
    worker(folder, sweep, perform, stays=False).run()
    assert taken == [1, 0]


def test_what_another_worker_lost_is_not_counted(small_sweep: MakeSweep, tmp_path: Path) -> None:
    """A worker that stood still while its cell was taken from it goes on with the next cell; one result counts."""
    folder, taken = tmp_path / "sweep", []
    sweep = small_sweep(folder, cells=2)

    def perform(_folder: Path, cell: Cell, held: Held) -> str:
        taken.append((cell.position, held.number))
        if (cell.position, held.number) == (0, 1):  # meanwhile, elsewhere
            far = Watcher(patience_s=0.0, now_s=iter(range(9)).__next__, boot="far")
            for _ in range(2):
                with claimed(folder / "cells" / cell.key, far) as other:
                    assert other is None or other.end(Outcome.DONE)
        return "too late"

    worker(folder, sweep, perform).run()
    assert taken == [(0, 1), (1, 1), (1, 2), (1, 3)]
    ends = [one.end and one.end.outcome for one in attempts(folder / "cells" / sweep.cells[0].key)]
    assert ends == [Outcome.LOST, Outcome.DONE]


@pytest.mark.real_clock
def test_the_process_of_a_cell_ends_with_its_worker(
    small_sweep: MakeSweep, tmp_path: Path, environment: dict[str, str]
) -> None:
    """It sees that its stdin, a pipe from the worker, is closed."""
    folder = tmp_path / "sweep"
    sweep = small_sweep(folder, cells=1)
    command = [sys.executable, "-m", "perstep.sweeps.cell", str(folder), sweep.cells[0].key, "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        process.communicate(b"")
    assert process.returncode == ORPHANED


@pytest.mark.real_clock
def test_a_process_that_fails_says_why(small_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code and the last line of its stderr; a run of another sweep is refused when the table is made."""
    folder = tmp_path / "sweep"
    sweep = small_sweep(folder, cells=1)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    strange = Cell(key="000000000000.1", position=0, block=1, is_reference=False, values={}, words=[])
    with claimed(folder / "cells" / strange.key, Watcher()) as held:
        assert held is not None
        assert in_fresh_process(folder, strange, held) == f"exit code 2: {folder} has no cell 000000000000.1"
    assert [row.outcome for row in read_rows(folder, sweep)] == ["waiting"]
