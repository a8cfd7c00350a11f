"""How a sweep begins or goes on: the grid is checked whole, counted and timed before the first cell is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from perstep._words import plural
from perstep.errors import InputError
from perstep.measure import Progress
from perstep.sweeps.folder import (
    SWEEPS,
    Sweep,
    begin,
    check_resumed,
    check_versions,
    read_sweep,
    refuse_used,
    versions_here,
)
from perstep.sweeps.grid import Grid, Point, cells_of, num_combinations, points, read_grid

MOST_UNASKED = 1000
"""A larger grid is often a slip of the finger, and takes hours."""
START_S = 3.0
"""About what a cell takes besides measuring: a process, its imports, a model, the report."""


@dataclass(frozen=True)
class Begun:
    """A sweep that is ready to be worked on, its folder, and what it will take in words."""

    sweep: Sweep
    folder: Path
    words: str


def begin_sweep(
    path: Path, out: Path | None, *, resume: bool, progress: Progress, agree: Callable[[str], bool]
) -> Begun:
    """Read a grid and make its folder, or find the one it has.

    Args:
        path: of the grid.
        out: the sweep's folder; by default named as the grid's file.
        resume: go on with the sweep in `out`.
        progress: told how many plans are checked.
        agree: asked whether to go on with very many cells.

    Raises:
        InputError: the grid is wrong or too large, or the folder is in use or another sweep's; nothing was written.
    """
    grid, raw = read_grid(path)
    folder = SWEEPS / path.stem if out is None else out
    if resume:
        sweep = read_sweep(folder)
        check_resumed(sweep, raw, folder)
        check_versions(sweep, versions_here(), "this environment")
        return Begun(sweep, folder, f"going on with {plural(len(sweep.cells), 'cell')} in {folder}")
    refuse_used(folder)
    combinations = num_combinations(grid)
    if combinations > MOST_UNASKED and not agree(f"{path} has {plural(combinations, 'cell')}"):
        raise InputError(f"{path} has {plural(combinations, 'cell')}: that takes long; take fewer values, or say --yes")
    distinct = _checked(grid, path, progress)
    cells = cells_of(grid, distinct)
    words = _in_words(grid, distinct, len(cells))
    return Begun(begin(folder, grid, raw, cells), folder, words)


def _checked(grid: Grid, path: Path, progress: Progress) -> list[Point]:
    """The points that pass the filters, each plan once."""
    total = num_combinations(grid) // grid.repeats
    by_plan: dict[str, Point] = {}
    for number, point in enumerate(points(grid), 1):
        if point is not None:
            by_plan.setdefault(point.plan_hash, point)
        progress(number / total, f"checking {plural(total, 'plan')}")
    if not by_plan:
        raise InputError(f"{path}: no cell passes the filters {grid.where}; widen them")
    return list(by_plan.values())


def _in_words(grid: Grid, distinct: list[Point], cells: int) -> str:
    """How many cells there are and how long they take, as far as their plans tell."""
    efforts = {point.plan_hash: point.plan.effort() for point in distinct}
    budgets = [effort.budget_s for effort in efforts.values()]
    extra = cells - len(distinct) * grid.repeats
    counted = f"{plural(cells, 'cell')}: {plural(len(distinct), 'plan')} in {plural(grid.repeats, 'block')}"
    if extra:
        counted += f", and the reference cell {extra:,} times"
    mean_s = sum(budgets) / len(budgets)
    if not isfinite(mean_s):
        return f"{counted}; each measures a number of rounds, so the time left is known after some cells"
    return f"{counted}; at most {_time(cells * (mean_s + START_S))} if each takes its whole budget ({_time(mean_s)})"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
