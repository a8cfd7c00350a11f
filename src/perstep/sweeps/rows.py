"""The rows of a sweep's table: a cell each, from the folder alone, with what became of it and what its run found.

A cell that is not done has a row too, without figures. Figures are those that the run itself stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perstep._json import DamagedError, Json, decode
from perstep._words import time_unit
from perstep.errors import InputError
from perstep.experiments.conditions import machine_of
from perstep.machine import Machine, identity
from perstep.runs import Manifest, read_manifest, read_regular
from perstep.sweeps.folder import CELLS, Sweep
from perstep.sweeps.grid import Cell
from perstep.sweeps.queue import RUN, Attempt, Outcome, attempts, verdict

Found = Any
"""A value of results.json: a number, a text, or nothing."""
WAITING, DAMAGED = "waiting", "damaged"
_MOST_FIGURES = 100
_MOST_CHARACTERS = 1000
_MOST = 1e300
"""JSON has numbers that are beyond doubles."""


@dataclass(frozen=True)
class Row:
    """A cell and what became of it.

    Attributes:
        cell: the cell.
        outcome: `done`, `failed`, `waiting` while it is to be measured, or `damaged` if its folder cannot be read.
        attempts: how many there were.
        why: the last failed or was lost; empty for a cell that is done.
        run: the run's folder as seen from the sweep's; empty if there is none.
        machine: the identity of the machine that measured it.
        hardware: that machine in words.
        began_at: UTC, ISO 8601.
        figures: name -> value.
    """

    cell: Cell
    outcome: str
    attempts: int
    why: str = ""
    run: str = ""
    machine: str = ""
    hardware: str = ""
    began_at: str = ""
    figures: Mapping[str, Found] = field(default_factory=dict)


def read_rows(folder: Path, sweep: Sweep) -> list[Row]:
    """A row a cell, in the order of the sweep.

    A cell is damaged if its attempt or run cannot be read, or is of another sweep or cell; the others have their rows.
    """
    return [_row_or_damage(folder, sweep, cell) for cell in sweep.cells]


def _row_or_damage(folder: Path, sweep: Sweep, cell: Cell) -> Row:
    try:
        return _row(folder, sweep, cell)
    except InputError as error:
        return Row(cell, DAMAGED, 0, why=str(error))


def _row(folder: Path, sweep: Sweep, cell: Cell) -> Row:
    tries = attempts(folder / CELLS / cell.key)
    outcome = verdict(tries)
    done = next((one for one in tries if one.end is not None and one.end.outcome is Outcome.DONE), None)
    if outcome is not Outcome.DONE or done is None:
        ended = [one.end.why[:_MOST_CHARACTERS] for one in tries if one.end is not None and one.end.why]
        return Row(cell, WAITING if outcome is None else outcome.value, len(tries), why=ended[-1] if ended else "")
    run = done.folder / RUN
    manifest = read_manifest(run)
    _check_place(run, manifest, sweep, cell, done)
    machine = machine_of(manifest)
    return Row(
        cell,
        outcome.value,
        len(tries),
        run=run.relative_to(folder).as_posix(),
        machine=identity(machine),
        hardware=_in_words(machine),
        began_at=manifest.started_at,
        figures=_figures(run, manifest, sweep.grid.figures),
    )


def _check_place(run: Path, manifest: Manifest, sweep: Sweep, cell: Cell, attempt: Attempt) -> None:
    place = {"sweep_id": sweep.sweep_id, "cell": cell.key, "attempt": attempt.number}
    if manifest.config.get("sweep") != place:
        raise InputError(f"{run} is no run of cell {cell.key}, attempt {attempt.number}, of this sweep; restore it")


def _in_words(machine: Machine) -> str:
    gpus = [] if isinstance(machine.gpus, str) else [gpu.name for gpu in machine.gpus]
    return ", ".join([str(machine.cpu.model), *sorted(gpus)])


def _figures(run: Path, manifest: Manifest, wanted: list[str]) -> dict[str, Found]:
    """What the grid asks for of results.json, or the summary's numbers."""
    if not wanted:
        numbers = _numbers(manifest.results_summary)
        return dict(list(numbers.items())[:_MOST_FIGURES])
    try:
        results = decode(read_regular(run / "results.json"), dict)
    except (OSError, DamagedError) as error:
        raise InputError(
            f"{run} has no results that can be read ({error}); `perstep report {run}` makes them"
        ) from error
    return {path: _at(results, path.split(".")) for path in wanted}


def _numbers(summary: Mapping[str, Json], before: str = "") -> dict[str, float]:
    """Name -> number, of nested ones with a point between the names."""
    numbers: dict[str, float] = {}
    for name, value in summary.items():
        if isinstance(value, dict):
            numbers |= _numbers(value, f"{before}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST:
            numbers[f"{before}{name}"] = value
    return numbers


def _at(results: Json, path: list[str]) -> Found:
    """What stands at a path; a name may itself have points in it, such as `attn.qkv`."""
    for taken in range(len(path), 0, -1):
        name, rest = ".".join(path[:taken]), path[taken:]
        if isinstance(results, dict) and name in results:
            inner = _at(results[name], rest) if rest else results[name]
        elif isinstance(results, list) and name.isdecimal() and len(name) < 10 and int(name) < len(results):
            inner = _at(results[int(name)], rest) if rest else results[int(name)]
        else:
            continue
        is_shown = isinstance(inner, str) or (isinstance(inner, int | float) and abs(inner) < _MOST)
        return inner if is_shown else None
    return None


def plain(value: Found) -> Found:
    """An option's value as one cell of a table."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def shown(name: str, values: Sequence[float]) -> tuple[str, str, float]:
    """What stands over a figure of this name, its unit, and the unit's size: durations are in nanoseconds."""
    if name.endswith(("_ns", ".ns")):
        unit, size = time_unit(values)
        return name[:-3].replace("_", " "), unit, size
    return name.replace("_", " "), "", 1.0
