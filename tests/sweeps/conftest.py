"""A small sweep that needs no model, and a worker of it in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perstep.machine import describe
from perstep.sweeps.folder import Sweep, begin
from perstep.sweeps.grid import cells_of, parse_grid, points

GRID = """
experiment = "compare"
repeats = {repeats}
reference_every = 0

[options]
arms = ["true", "true"]
rounds = 1

[grid]
seed = "1-{cells}"
"""

WORKER = '''
import os, sys, time
from pathlib import Path
from perstep._json import Json
from perstep.runs import read_regular, replace_file
from perstep.sweeps.folder import read_sweep
from perstep.sweeps.on_ray import connected, run_on_ray
from perstep.sweeps.work import Worker

folder, machine, seconds, *address = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]
sweep = read_sweep(folder)

def perform(folder, cell, held):
    """Sleeps, unless it is told to hurry, and leaves what a run would leave."""
    with (folder / "log").open("a") as log:
        log.write(f"{cell.key} {held.number} {os.getpid()}\\n")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not (folder / "hurry").exists():
        held.beat()
        time.sleep(0.05)
    place = '{"sweep": {"sweep_id": "%s", "cell": "%s", "attempt": %d}}' % (sweep.sweep_id, cell.key, held.number)
    run = held.folder / "run"
    run.mkdir()
    text = '{"experiment": "compare", "plan": {}, "schema_version": 2, "machine": %s, "config": %s,'
    text += ' "results_summary": {"step_ns": %d}}'
    replace_file(run / "manifest.json", (text % (machine.read_text(), place, cell.position + 1)).encode())
    return ""

if address:
    with connected(address[0]) as ray:
        run_on_ray(ray, folder, sweep, lambda _share, _what: None, lambda _said: None, perform)
else:
    Worker(folder, sweep, lambda _share, _what: None, stays=True, perform=perform).run()
'''


def make_sweep(folder: Path, *, cells: int = 6, repeats: int = 1) -> Sweep:
    """A sweep of cells that differ by their seed alone."""
    raw = GRID.format(cells=cells, repeats=repeats).encode()
    grid = parse_grid(raw, "grid.toml")
    found = [point for point in points(grid) if point is not None]
    return begin(folder, grid, raw, cells_of(grid, found))


@pytest.fixture
def small_sweep() -> Callable[..., Sweep]:
    """`small_sweep(folder, cells=6, repeats=1)`: a new sweep."""
    return make_sweep


@pytest.fixture(scope="session")
def machine_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This machine, as a manifest has it."""
    path = tmp_path_factory.mktemp("machine") / "machine.json"
    path.write_text(json.dumps(msgspec.to_builtins(describe())))
    return path


@pytest.fixture
def start_worker(environment: dict[str, str], machine_json: Path) -> Iterator[Callable[..., "subprocess.Popen[Any]"]]:
    """`start_worker(folder, seconds)`: a process that works on a sweep whose cells sleep; ended with the test.

    With the address of a Ray cluster it is the driver of a sweep there. Output is in `stdout` beside the folder.
    """
    started: list[subprocess.Popen[Any]] = []

    def start(folder: Path, seconds: float, *address: str) -> "subprocess.Popen[Any]":
        command = [sys.executable, "-c", WORKER, str(folder), str(machine_json), str(seconds), *address]
        with folder.with_name("stdout").open("ab") as printed:
            started.append(subprocess.Popen(command, env=environment, stdout=printed))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
