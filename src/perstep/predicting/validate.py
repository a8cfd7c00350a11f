"""How far predictions are off, measured: whole architectures, octaves of context and machines are left out in turn.

Never random rows: a cell's neighbours in a grid tell nearly all of it. Folds are the groups themselves, so nothing is
drawn. Beside the fit stand baselines on the same cells: the roofline of our ceilings and that of a data sheet, with
nothing fitted, and the nearest measured cell. Where one of them is better, the notes say so.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from statistics import median

import msgspec

from perstep._words import plural
from perstep.errors import InputError
from perstep.predicting.cells import Cell, Cells, Speed
from perstep.predicting.features import roofline_step_ns
from perstep.predicting.fit import (
    Fit,
    Group,
    HalfWidths,
    architecture,
    half_widths,
    interval_ns,
    left_out,
    pooled_speeds,
)
from perstep.predicting.predict import beyond, nearest, own_speeds
from perstep.report.format import percent
from perstep.theory import Level, Rates

QUIET = 0.05
"""Cells whose own interval is wider than ± this are shown apart: there the noise, not the fit, may be what is off."""
NEAR = 0.10
OWN, POOLED = "perstep, ceilings of the same rounds", "perstep, ceilings of other cells"
ROOF, ROOF_POOLED = "roofline, ceilings of the same rounds", "roofline, ceilings of other cells"
SHEET, NEIGHBOUR = "roofline of the data sheet", "nearest measured cell"
BASELINES = {OWN: (ROOF,), POOLED: (ROOF_POOLED, SHEET, NEIGHBOUR)}
"""A method of ours -> the baselines that know as much of the machine in these rounds as it does."""

GROUPS: dict[str, Group] = {
    "architecture": architecture,
    "octave of context": lambda cell: int(log2(cell.subject.context + 1)),
    "machine": lambda cell: cell.machine,
}


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How far one method is off, over the cells of all folds of one kind. Errors are shares of the measured step.

    Attributes:
        left_out: what is left out together.
        method: what predicts.
        folds: how many.
        cells: how many.
        median: error.
        p90: at most this in nine of ten of these cells.
        worst: the largest.
        within: the share of cells that are off by at most 10 %.
        coverage: the share of cells that their interval holds, of those that have one; None for what has none.
        derived: number of cells without an interval, most of them outside of what the others span; None likewise.
        parts: median of the sum of all parts' errors, signs left out; None where parts are not predicted.
        cancelling: median of how much of that is left in the step: |sum| / sum of | |. 1 is nothing cancelled.
        noise: median half-width of the measured steps' own intervals; None without any.
    """

    left_out: str
    method: str
    folds: int
    cells: int
    median: float
    p90: float
    worst: float
    within: float
    coverage: float | None
    derived: int | None
    parts: float | None
    cancelling: float | None
    noise: float | None


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """Scores by fold and method; sentences about what they hold for; and each left-out cell.

    Attributes:
        scores: a row each.
        cells: name -> method -> predicted over measured, minus 1, with its architecture left out.
        notes: sentences.
    """

    scores: list[Score]
    cells: dict[str, dict[str, float]]
    notes: list[str]


@dataclass(frozen=True)
class Sheet:
    """A data sheet: bytes and FLOPs a second that its maker promises, for one thread's share."""

    gb_s: float
    gflop_s: float

    def speed(self, dtype: str) -> Speed:
        """As that of a machine without caches and call overheads."""
        return Speed(Rates((Level("memory", self.gb_s * 1e9),), {dtype: self.gflop_s * 1e9}))


@dataclass(frozen=True)
class _Held:
    """A cell that was left out, and what a method says of it."""

    cell: Cell
    step_ns: float
    parts_ns: Mapping[str, float] | None = None
    half: float | None = None

    @property
    def error(self) -> float:
        return self.step_ns / self.cell.step_ns - 1

    @property
    def is_covered(self) -> bool:
        ends = interval_ns(self.step_ns, self.half)
        return ends is not None and ends[0] <= self.cell.step_ns <= ends[1]

    def parts(self) -> tuple[float, float]:
        """The sum of the parts' errors with signs, and without, in nanoseconds."""
        said = self.parts_ns or {}
        errors = [said.get(p, 0.0) - self.cell.parts_ns.get(p, 0.0) for p in {**said, **self.cell.parts_ns}]
        return sum(errors), sum(map(abs, errors))


def validate(cells: Cells, sheet: Sheet | None = None) -> list[Validation]:
    """A validation of each way of carrying out steps that has enough cells.

    Args:
        cells: what was measured.
        sheet: of the machine, for a baseline.

    Raises:
        InputError: no way has two groups of any kind that leave enough cells.
    """
    ways = list(dict.fromkeys(cell.subject.way for cell in cells.cells))
    validations = [validation for way in ways if (validation := _validate(cells.of_way(way), sheet)) is not None]
    if not validations:
        raise InputError(
            f"nothing can be left out: {plural(len(cells.cells), 'cell')} in {plural(len(ways), 'way')}"
            f" ({cells.words or 'none left out'}); measure two architectures or octaves of context, of 8 cells each"
        )
    return validations


def _validate(all_cells: Sequence[Cell], sheet: Sheet | None) -> Validation | None:
    quiet = [cell for cell in all_cells if cell.noise is not None and cell.noise <= QUIET]
    cells = quiet or list(all_cells)
    scores: list[Score] = []
    by_cell: dict[str, dict[str, float]] = {}
    for kind, group in GROUPS.items():
        said = _said(cells, group, sheet)
        folds = len({group(cell) for cell in cells})
        scores += [_score(kind, method, folds, held_out) for method, held_out in said.items() if held_out]
        if kind == "architecture":
            for method, held_out in said.items():
                for one in held_out:
                    by_cell.setdefault(one.cell.name, {})[method] = one.error
    if not scores:
        return None
    return Validation(scores=scores, cells=by_cell, notes=[*_notes(all_cells, quiet), *_better(scores)])


def _better(scores: Sequence[Score]) -> list[str]:
    """A sentence for each baseline that has smaller errors than the method of ours that knows as much."""
    by_row = {(score.left_out, score.method): score for score in scores}
    sentences = []
    for kind in dict.fromkeys(score.left_out for score in scores):
        for ours, baselines in BASELINES.items():
            for one in (name for name in baselines if {(kind, name), (kind, ours)} <= by_row.keys()):
                ends = [
                    f"{name} {percent(theirs)} against {percent(mine)}"
                    for name, theirs, mine in _errors(by_row[kind, one], by_row[kind, ours])
                    if theirs < mine
                ]
                if ends:
                    sentences.append(f"Left-out {kind}: {one} is better than {ours}: {', '.join(ends)}.")
    return sentences


def _errors(one: Score, other: Score) -> list[tuple[str, float, float]]:
    return [("median", one.median, other.median), ("p90", one.p90, other.p90), ("worst", one.worst, other.worst)]


def _notes(cells: Sequence[Cell], quiet: Sequence[Cell]) -> list[str]:
    archs = len({cell.subject.arch for cell in (quiet or cells)})
    first = f"{cells[0].subject.way.words}: {plural(len(quiet or cells), 'cell')} of {plural(archs, 'architecture')}."
    if not quiet:
        return [first, "No cell's own interval is within ±5 %, so these errors are mostly noise."]
    left = len(cells) - len(quiet)
    if not left:
        return [first]
    noisy = f"{plural(left, 'cell is', 'cells are')} left out, whose own interval is wider than ±5 % or missing."
    return [first, noisy, *(f"With them, left-out architecture, {words}." for words in _with_noisy(cells))]


def _with_noisy(cells: Sequence[Cell]) -> list[str]:
    """What the errors would be of all cells: so nobody wonders what became of those that were left out."""
    words = []
    for method, held_out in _said(cells, architecture, None).items():
        if method in BASELINES:
            score = _score("architecture", method, 0, held_out)
            covered = "" if score.coverage is None else f", coverage {percent(score.coverage)}"
            words.append(f"{method}: median {percent(score.median)}, p90 {percent(score.p90)}{covered}")
    return words


def _said(cells: Sequence[Cell], group: Group, sheet: Sheet | None) -> dict[str, list[_Held]]:
    """Method -> what it says of each cell when its group is left out."""
    own, pooled = own_speeds(cells), pooled_speeds(cells, group)
    fits = left_out(cells, own, group)
    halves: dict[int, HalfWidths] = {}
    by_method: dict[str, list[_Held]] = defaultdict(list)
    for cell in cells:
        fit = fits.get(cell.name)
        if fit is None:
            continue
        rest = [other for other in cells if group(other) != group(cell)]
        if id(fit) not in halves:
            halves[id(fit)] = half_widths(rest, own)
        # as the command: no interval outside of the others
        half = HalfWidths(None, None) if beyond(cell.subject, rest) else halves[id(fit)]
        by_method[OWN].append(_fitted(fit, cell, own[cell.name], half.own))
        if cell.name in pooled:
            by_method[POOLED].append(_fitted(fit, cell, pooled[cell.name], half.pooled))
            by_method[ROOF_POOLED].append(_Held(cell, roofline_step_ns(cell.subject, pooled[cell.name])))
        by_method[ROOF].append(_Held(cell, roofline_step_ns(cell.subject, own[cell.name])))
        if sheet is not None:
            by_method[SHEET].append(_Held(cell, roofline_step_ns(cell.subject, sheet.speed(cell.subject.way.dtype))))
        by_method[NEIGHBOUR].append(_Held(cell, nearest(cell.subject, rest).step_ns))
    return by_method


def _fitted(fit: Fit, cell: Cell, speed: Speed, half: float | None) -> _Held:
    parts = fit.parts_ns(cell.subject, speed)
    return _Held(cell, fit.together_ns(parts), parts, half)


def _score(kind: str, method: str, folds: int, held_out: Sequence[_Held]) -> Score:
    errors = sorted(abs(one.error) for one in held_out)
    noises = [one.cell.noise for one in held_out if one.cell.noise is not None]
    with_parts = [(one, *one.parts()) for one in held_out if one.parts_ns is not None]
    inside = [one for one in held_out if one.half is not None]
    return Score(
        left_out=kind,
        method=method,
        folds=folds,
        cells=len(held_out),
        median=median(errors),
        p90=errors[ceil(0.9 * len(errors)) - 1],
        worst=errors[-1],
        within=_share(held_out, lambda one: abs(one.error) <= NEAR),
        coverage=_share(inside, lambda one: one.is_covered) if inside else None,
        derived=len(held_out) - len(inside) if with_parts else None,
        parts=median(total / one.cell.step_ns for one, _, total in with_parts) if with_parts else None,
        cancelling=median(abs(signed) / total for _, signed, total in with_parts if total) if with_parts else None,
        noise=median(noises) if noises else None,
    )


def _share(held_out: Sequence[_Held], passes: Callable[[_Held], bool]) -> float:
    return sum(map(passes, held_out)) / len(held_out)
