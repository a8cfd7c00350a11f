"""A sweep's folder that comes from elsewhere, or was damaged: one cell never hides the others, nothing leaves it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.experiments.command_line import plan_from
from perstep.runs import encode_json, replace_file
from perstep.sweeps.folder import SWEEP, Sweep, read_sweep
from perstep.sweeps.grid import Cell, parse_grid, points, read_grid
from perstep.sweeps.queue import Held, Outcome, Watcher, claimed
from perstep.sweeps.rows import read_rows
from perstep.sweeps.where import holds
from perstep.sweeps.work import Worker

VERSIONS = Path(__file__).with_name("versions")
DEEP = "[" * 1_000_000


@pytest.fixture
def perform(machine_json: Path) -> Callable[[Sweep], Callable[[Path, Cell, Held], str]]:
    """`perform(sweep)`: what leaves a run and measures nothing."""

    def of(sweep: Sweep) -> Callable[[Path, Cell, Held], str]:
        def one(_folder: Path, cell: Cell, held: Held) -> str:
            run = held.folder / "run"
            run.mkdir()
            place = {"sweep_id": sweep.sweep_id, "cell": cell.key, "attempt": held.number}
            manifest = {
                "experiment": "compare",
                "plan": {},
                "schema_version": 2,
                "machine": json.loads(machine_json.read_text()),
                "config": {"sweep": place},
                "results_summary": {"step_ns": 7},
            }
            replace_file(run / "manifest.json", encode_json(manifest))
            replace_file(run / "results.json", encode_json({"step": {"ns": 5}}))
            return ""

        return one

    return of


def work(folder: Path, sweep: Sweep, perform: Callable[[Path, Cell, Held], str]) -> Worker:
    """Everything that can be measured is."""
    worker = Worker(folder, sweep, lambda _share, _what: None, stays=True, perform=perform, wait=lambda _s: None)
    worker.run()
    return worker


def file_with(text: str) -> Callable[[Path, Path], None]:
    """Lays a file of this text."""
    return lambda path, _outside: path.write_text(text) and None


def link(path: Path, outside: Path) -> None:
    """Leads out of the sweep."""
    path.symlink_to(outside)


def fifo(path: Path, _outside: Path) -> None:
    """Never ends."""
    os.mkfifo(path)


def zero(path: Path, _outside: Path) -> None:
    """Ends even less."""
    path.symlink_to("/dev/zero")


NOTES: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "cut off": ("1/claim.json", file_with("{")),
    "nested deeply": ("1/claim.json", file_with(DEEP)),
    "of another type": ("1/claim.json", file_with("[1]")),
    "of a worker elsewhere": ("1/claim.json", file_with('{"worker": "../../../..", "boot": ""}')),
    "a FIFO": ("1/claim.json", fifo),
    "a link": ("1/claim.json", link),
    "a device": ("1/claim.json", zero),
    "an attempt elsewhere": ("1", link),
    "a run elsewhere": ("1/run", link),
    "a cell elsewhere": ("", link),
    "a file": ("", file_with("")),
}
"""What lies in the place of a cell's folder, or in it."""


@pytest.mark.parametrize("name", NOTES)
def test_a_damaged_cell_is_told_and_the_others_are_measured(
    small_sweep: Callable[..., Sweep], tmp_path: Path, perform: Any, name: str
) -> None:
    """It has a row that says so; nothing is written outside of the sweep."""
    folder, outside = tmp_path / "sweep", tmp_path / "outside"
    outside.mkdir()
    sweep = small_sweep(folder, cells=3)
    place, lay = NOTES[name]
    path = folder / "cells" / sweep.cells[0].key / place
    path.parent.mkdir(parents=True, exist_ok=True)
    lay(path, outside)
    worker = work(folder, sweep, perform(sweep))
    rows = read_rows(folder, sweep)
    assert [row.outcome for row in rows] == ["damaged", "done", "done"]
    assert worker.damaged == [rows[0].why]
    assert list(outside.iterdir()) == []


RUNS: dict[str, tuple[str, str, str]] = {
    "no JSON": ("manifest.json", "{", "is not a manifest"),
    "nested deeply": ("manifest.json", DEEP, "is not a manifest"),
    "another version": ("manifest.json", '{"schema_version": -1}', "has schema_version -1"),
    "of another sweep": ("manifest.json", '{"experiment": "a", "plan": {}, "schema_version": 2}', "is no run of cell"),
    "no machine": (
        "manifest.json",
        '{"experiment": "a", "plan": {}, "schema_version": 2, "machine": {"cpu": 1}, "config": CONFIG}',
        "is wrong in machine",
    ),
    "no results": ("results.json", "{", "has no results that can be read"),
    "deep results": ("results.json", DEEP, "has no results that can be read"),
    "a list of results": ("results.json", "[1]", "has no results that can be read"),
}
"""File of a run, what is in it, what is said."""


@pytest.mark.parametrize("name", RUNS)
def test_a_damaged_run_is_told_and_the_table_has_the_others(
    cli: Callable[..., Any], small_sweep: Callable[..., Sweep], perform: Any, name: str
) -> None:
    """Exit code 4, which names the cell; the table is written."""
    folder = Path("sweep")
    sweep = small_sweep(folder, cells=2)
    # as a grid with `figures` has it
    text = json.loads((folder / SWEEP).read_text())
    text["grid"]["figures"] = ["step.ns"]
    (folder / SWEEP).write_text(json.dumps(text))
    sweep = read_sweep(folder)
    work(folder, sweep, perform(sweep))
    file, content, why = RUNS[name]
    run = folder / "cells" / sweep.cells[0].key / "1" / "run"
    config = json.dumps(json.loads((run / "manifest.json").read_text())["config"])
    (run / file).write_text(content.replace("CONFIG", config))
    grid = Path("grid.toml")
    grid.write_bytes(b"any")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("perstep.sweeps.begin.read_grid", lambda path: (sweep.grid, path.read_bytes()))
        patched.setattr("perstep.sweeps.begin.check_resumed", lambda *_: None)
        said = cli("sweep", grid, "--out", folder, "--resume", "-o", "json", "-q")
    assert said.code == 4, said.err
    assert f"damaged: {sweep.cells[0].key}; the other cells are in" in said.err
    rows = {row["key"]: row for row in json.loads(said.out)}
    assert why in rows[sweep.cells[0].key]["why"]
    assert rows[sweep.cells[1].key]["outcome"] == "done"
    assert "1 done, 1 damaged" in (folder / "README.md").read_text()


def changed(**cell: Any) -> Callable[[dict[str, Any]], Any]:
    """Gives the first cell other fields."""
    return lambda sweep: sweep["cells"][0].update(cell)


SWEEPS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a key that leads out": changed(key="../../../outside"),
    "a key with a line end": changed(key="0123456789ab.1\n"),
    "a key twice": lambda sweep: sweep["cells"].append(sweep["cells"][0]),
    "no cell": lambda sweep: sweep["cells"].clear(),
    "another axis": changed(values={"batch": 1}),
    "a value of another kind": changed(values={"seed": {"a": 1}}),
    "a number beyond doubles": changed(values={"seed": 10**400}),
    "words of another kind": changed(words="--seed=1"),
    "versions of another kind": lambda sweep: sweep.update(versions=[1]),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_of_strange_cells_is_refused(
    cli: Callable[..., Any], small_sweep: Callable[..., Sweep], name: str
) -> None:
    """In one line, before a folder is made."""
    small_sweep(Path("sweep"), cells=2)
    sweep = json.loads(Path("sweep", SWEEP).read_text())
    SWEEPS[name](sweep)
    Path("sweep", SWEEP).write_text(json.dumps(sweep))
    said = cli("worker", "sweep")
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert "sweep.json is damaged" in said.err
    assert sorted(path.name for path in Path().rglob("*")) == ["cells", "sweep", SWEEP]


@pytest.mark.parametrize("lay", [fifo, zero, link, file_with(DEEP), file_with('{"schema_version": -1}')])
def test_what_is_no_sweep_is_refused(
    cli: Callable[..., Any], small_sweep: Callable[..., Sweep], lay: Callable[[Path, Path], None]
) -> None:
    """Nothing is waited for, and no memory is filled."""
    small_sweep(Path("sweep"), cells=1)
    Path("sweep", SWEEP).rename("outside")
    lay(Path("sweep", SWEEP), Path("outside").resolve())
    said = cli("worker", "sweep")
    assert (said.code, len(said.err.splitlines())) == (2, 1)


def test_every_version_of_a_sweep_has_a_stored_one() -> None:
    """From version 1 on."""
    assert [path.name for path in VERSIONS.iterdir()] == ["1"]
    sweep = read_sweep(VERSIONS / "1")
    assert (sweep.schema_version, len(sweep.cells), sweep.grid.experiment) == (1, 3, "ledger")


def test_what_a_worker_says_has_an_end(small_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    """The table shows it."""
    sweep = small_sweep(tmp_path, cells=1)
    with claimed(tmp_path / "cells" / sweep.cells[0].key, Watcher()) as held:
        assert held is not None
        assert held.end(Outcome.FAILED, "why" * 1_000_000)
    assert len(read_rows(tmp_path, sweep)[0].why) == 1000


def test_a_sweep_killed_before_it_began_can_be_begun(tmp_path: Path, small_sweep: Callable[..., Sweep]) -> None:
    """What is left of its first file is in nobody's way; another file is."""
    (tmp_path / ".sweep.json.0123456789abcdef.tmp").touch()
    assert len(small_sweep(tmp_path, cells=2).cells) == 2
    with pytest.raises(InputError, match="is not empty"):
        small_sweep(tmp_path)


# Grids


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = [" + "9" * 5000 + "]", "is not TOML"),
        ("seed = " + DEEP, "is not TOML"),
        ("[batch]\na = 1", "is not a grid: Object contains unknown field `batch`"),
        ("help = [true]", "help"),
        ("version = [true]", "version"),
        ("temperature = [inf]", "is no value of an option"),
    ],
)
def test_a_grid_of_strange_values_is_refused(text: str, said: str) -> None:
    """Neither help instead of a plan, nor a number that JSON does not have."""

    def made() -> None:
        list(points(parse_grid(f'experiment = "ledger"\n[grid]\n{text}'.encode(), "grid.toml")))

    with pytest.raises(InputError) as caught:
        made()
    assert said in str(caught.value)


def test_a_grid_without_an_end_is_refused() -> None:
    """It would fill the memory."""
    with pytest.raises(InputError, match="it is larger than 1,024 KiB"):
        read_grid(Path("/dev/zero"))


def test_a_plan_has_no_help() -> None:
    """Which prints, and makes no plan."""
    with pytest.raises(InputError, match="--help"):
        plan_from("ledger", ["--help"])


@pytest.mark.parametrize("text", ["'a' * 10000000000 == 'b'", "[1] * 10000000000 == 1", "'%0999999999d' % 1 == '1'"])
def test_a_filter_fills_no_memory(text: str) -> None:
    """Arithmetic is of numbers."""
    with pytest.raises(InputError, match="arithmetic is of numbers alone"):
        holds(text, {})
